// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace polymoe {

/// What gnuplot writes to its output for a script. Throws InvalidArgument where gnuplot is not
/// installed, Error with its words where it refuses the script.
std::string run_gnuplot(const std::string& script);

}  // namespace polymoe
