// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

/// A short name for each of several files, each another one and none of `taken`: the file's name
/// without what it ends with of `endings`, taken off in their order; behind its folder's name where
/// others are called so, and numbered from the second on where even that is not enough.
std::vector<std::string> names_apart(const std::vector<std::filesystem::path>& files,
                                     const std::vector<std::string_view>& endings,
                                     const std::vector<std::string>& taken = {});

}  // namespace polymoe
