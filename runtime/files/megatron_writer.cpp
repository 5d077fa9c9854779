// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/megatron_writer.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/new_file.h"

namespace polymoe {
namespace {

constexpr std::int64_t first_wide_vocabulary = 65500;

std::filesystem::path with_suffix(std::filesystem::path path, const char* suffix) {
  path += suffix;
  return path;
}

template <class T>
void write_value(NewFile& file, T value) {
  file.write(&value, sizeof value);
}

std::int64_t checked_vocabulary(std::int64_t vocab) {
  if (vocab < 1 || vocab > std::numeric_limits<std::int32_t>::max()) {
    throw InvalidArgument("a vocabulary of " + std::to_string(vocab) +
                          " tokens; allowed are 1 to 2147483647");
  }
  return vocab;
}

}  // namespace

MegatronWriter::MegatronWriter(const std::filesystem::path& prefix, std::int64_t vocab,
                               bool with_mask)
    : bin_(with_suffix(prefix, ".bin")),
      idx_(with_suffix(prefix, ".idx")),
      mask_path_(with_suffix(prefix, ".mask.bin")),
      vocab_(checked_vocabulary(vocab)),
      data_(bin_) {
  if (with_mask) mask_.emplace(mask_path_);
}

void MegatronWriter::add(std::span<const std::int32_t> document) {
  append(document);
  end_document();
}

void MegatronWriter::append(std::span<const std::int32_t> part,
                            std::span<const std::uint8_t> counted) {
  if (mask_ && counted.size() != part.size())
    throw InvalidArgument("a part of " + std::to_string(part.size()) + " tokens has a mask of " +
                          std::to_string(counted.size()));
  for (std::size_t i = 0; i < part.size(); ++i) {
    if (part[i] < 0 || part[i] >= vocab_) {
      throw InvalidArgument("token " + std::to_string(document_tokens_) + " + " +
                            std::to_string(i) + " of document " + std::to_string(documents()) +
                            " is " + std::to_string(part[i]) + "; ids are in [0, " +
                            std::to_string(vocab_) + ")");
    }
  }
  if (vocab_ < first_wide_vocabulary) {
    narrow_.assign(part.begin(), part.end());
    data_.write(narrow_.data(), narrow_.size() * sizeof narrow_[0]);
  } else {
    data_.write(part.data(), part.size_bytes());
  }
  if (mask_) mask_->write(counted.data(), counted.size());
  document_tokens_ += static_cast<std::int64_t>(part.size());
}

void MegatronWriter::end_document() {
  if (document_tokens_ > std::numeric_limits<std::int32_t>::max()) {
    throw InvalidArgument("a document of " + std::to_string(document_tokens_) +
                          " tokens; a Megatron index takes at most 2147483647");
  }
  lengths_.push_back(static_cast<std::int32_t>(document_tokens_));
  tokens_ += document_tokens_;
  document_tokens_ = 0;
}

void MegatronWriter::finish() {
  data_.finish();
  const bool narrow = vocab_ < first_wide_vocabulary;
  const std::int64_t token_bytes = narrow ? 2 : 4;
  NewFile index(idx_);
  index.write(std::string_view("MMIDIDX\0\0", 9));
  write_value(index, std::uint64_t{1});
  write_value(index, static_cast<std::uint8_t>(narrow ? 8 : 4));
  write_value(index, static_cast<std::uint64_t>(lengths_.size()));
  write_value(index, static_cast<std::uint64_t>(lengths_.size() + 1));
  index.write(lengths_.data(), lengths_.size() * sizeof lengths_[0]);
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    write_value(index, offset);
    offset += length * token_bytes;
  }
  for (std::int64_t i = 0; i <= documents(); ++i) write_value(index, i);
  index.finish();
  if (mask_) {
    mask_->finish();
    mask_->complete();
  } else {
    std::error_code ignored;
    std::filesystem::remove(mask_path_, ignored);
  }
  data_.complete();
  index.complete();
  sync_directory(bin_.has_parent_path() ? bin_.parent_path() : ".");
}

}  // namespace polymoe
