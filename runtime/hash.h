// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace polymoe {

/// XXH3, 128 bits, as 32 lower-case hexadecimal digits. Finds damage, not malice.
std::string xxh3_of(std::string_view bytes);

/// The same over a file's content. Throws InputFileError when it cannot be read.
std::string xxh3_of_file(const std::filesystem::path& path);

}  // namespace polymoe
