// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace polymoe {

/// Bytes that are read front to back, once.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills `to` with up to `count` bytes; less, also nothing, only at the end. Throws
  /// InputFileError.
  virtual std::size_t read(char* to, std::size_t count) = 0;
  /// Bytes taken from the file so far: where they are compressed, others than those given.
  virtual std::int64_t consumed() const = 0;
};

/// A file, or standard input where the path is "-". What starts as gzip, Zstandard or xz does is
/// decompressed, whatever its name; members that follow one another are one text. Throws
/// InputFileError when it cannot be read, and while reading when it is damaged or cut off.
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

}  // namespace polymoe
