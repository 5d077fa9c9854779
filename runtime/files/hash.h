// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace polymoe {

/// XXH3, 128 bits, as 32 lower-case hexadecimal digits. Finds damage, not malice.
std::string xxh3_of(std::string_view bytes);

/// Hashes bytes that come in parts. Move-only.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(Xxh3&& other) noexcept;
  Xxh3& operator=(Xxh3&&) = delete;
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;

  void update(const void* bytes, std::size_t count);
  std::string digest() const;

 private:
  void* state_;
};

/// Hashes a file's content; `read` is told of the bytes of each part. Throws InputFileError
/// when it cannot be read.
std::string xxh3_of_file(const std::filesystem::path& path,
                         const std::function<void(std::int64_t bytes)>& read = {});

}  // namespace polymoe
