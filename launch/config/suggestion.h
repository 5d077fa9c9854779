// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace polymoe {

/// The key of the configuration that was meant by a name that is none: a key of another section, a
/// slip, or another program's word for it ("learning_rate", "epochs", "num-experts"). Empty where
/// nothing is near.
std::string suggested_key(std::string_view name);

}  // namespace polymoe
