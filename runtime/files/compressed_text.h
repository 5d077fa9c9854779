// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace polymoe {

/// The content of a file, plain or compressed by gzip, zstd or xz (known by its first bytes,
/// whatever its name), several members or frames one after the other included. Throws
/// InputFileError when it is missing, damaged, cut off, or its content is larger than `max_bytes`.
std::string read_compressed_file(const std::filesystem::path& path, std::int64_t max_bytes);

}  // namespace polymoe
