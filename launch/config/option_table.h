// SPDX-License-Identifier: Apache-2.0
// The table of all keys: it serves reading, printing, --help, the list of violations and the
// suggestion of the nearest key.
#pragma once

#include <string>
#include <vector>

#include "launch/config/option.h"

namespace polymoe {

/// Every key, grouped by section, in the order in which to_ini prints them.
const std::vector<Option>& options();
/// The option of that exact name, or null.
const Option* find_option(const std::string& key);

}  // namespace polymoe
