// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/compressed_text.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/error.h"
#include "runtime/files/byte_source.h"
#include "runtime/files/file.h"

namespace polymoe {

std::string read_compressed_file(const std::filesystem::path& path, std::int64_t max_bytes) {
  size_of_file(path);  // refuses what is no regular file
  const auto source = open_byte_source(path);
  std::string text;
  while (true) {
    constexpr std::size_t block = std::size_t{1} << 16;
    const std::size_t before = text.size();
    text.resize(before + block);
    const std::size_t got = source->read(text.data() + before, block);
    text.resize(before + got);
    if (text.size() > static_cast<std::size_t>(max_bytes))
      throw InputFileError(path.string(),
                           "unpacks to more than " + std::to_string(max_bytes) + " bytes");
    if (got < block) return text;
  }
}

}  // namespace polymoe
