// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace polymoe {

/// The project's version: "0.1.0".
std::string version();
/// The git revision this binary was built from, "-modified" behind it where the tree had changes;
/// "unknown" where it was built outside a git checkout.
std::string git_revision();
/// Compiler and libraries by name, with the versions it was built with.
std::vector<std::pair<std::string, std::string>> library_versions();
/// "polymoe --version": these, the instruction set in use, and the GPUs.
std::string version_text();

}  // namespace polymoe
