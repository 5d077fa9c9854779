// SPDX-License-Identifier: Apache-2.0
#include "launch/data/file_identity.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "launch/config/values.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

constexpr std::int64_t block_tokens = 2048, token_blocks = 4;
constexpr std::int64_t block_bytes = 4096, index_blocks = 2;

/// Begins of `count` blocks that are spread over [0, total), the first and the last included.
std::vector<std::int64_t> spread(std::int64_t total, std::int64_t block, std::int64_t count) {
  std::vector<std::int64_t> begins;
  const std::int64_t last = std::max<std::int64_t>(total - block, 0);
  for (std::int64_t i = 0; i < count; ++i) begins.push_back(last / (count - 1) * i);
  begins.back() = last;
  return begins;
}

std::string hash_of_blocks(const TokenFile& file) {
  Xxh3 hash;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min(file.tokens(), block_tokens)));
  for (const std::int64_t begin : spread(file.tokens(), block_tokens, token_blocks)) {
    file.read(begin, static_cast<std::int64_t>(ids.size()), ids.data());
    hash.update(ids.data(), ids.size() * sizeof ids[0]);
  }
  if (const InputFile* index = file.index()) {
    std::string bytes(static_cast<std::size_t>(std::min(index->bytes(), block_bytes)), '\0');
    for (const std::int64_t begin : spread(index->bytes(), block_bytes, index_blocks)) {
      index->read(begin, bytes.data(), bytes.size());
      hash.update(bytes.data(), bytes.size());
    }
  }
  return hash.digest();
}

std::int64_t modification_time(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto time = std::filesystem::last_write_time(path, ignored);
  const auto since = std::chrono::file_clock::to_sys(time).time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

}  // namespace

FileIdentity FileIdentity::of(const TokenFile& file, const std::string& path) {
  return {.path = path,
          .bytes = file.bytes(),
          .modified = modification_time(file.path()),
          .tokens = file.tokens(),
          .documents = file.documents(),
          .hash = hash_of_blocks(file)};
}

std::string FileIdentity::difference_to(const FileIdentity& earlier) const {
  if (tokens != earlier.tokens)
    return fmt::format("has {} tokens instead of {}", with_separators(tokens),
                       with_separators(earlier.tokens));
  if (bytes != earlier.bytes)
    return fmt::format("has {} bytes instead of {}", with_separators(bytes),
                       with_separators(earlier.bytes));
  if (documents != earlier.documents)
    return fmt::format("has {} documents instead of {}", with_separators(documents),
                       with_separators(earlier.documents));
  return hash == earlier.hash ? "" : "has other tokens or another index";
}

}  // namespace polymoe
