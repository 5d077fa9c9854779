// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace polymoe::cpu {

/// The widest instruction set that the vector kernels were built for and this processor has:
/// "AVX3_DL", "AVX2", ... in Highway's words.
std::string instruction_set_in_use();

}  // namespace polymoe::cpu
