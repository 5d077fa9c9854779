// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "runtime/files/new_file.h"

namespace polymoe {

/// Writes PREFIX.bin and PREFIX.idx as Megatron-LM does: one sequence per document, u16 tokens for
/// a vocabulary below 65500, i32 otherwise; and with a loss mask PREFIX.mask.bin, a byte per token,
/// 1 where it counts. Streams: memory is 4 bytes per document.
///
/// All files get their names only in finish(); an unfinished writer removes what it wrote.
/// Every failure to write throws OutputFileError.
class MegatronWriter {
 public:
  MegatronWriter(const std::filesystem::path& prefix, std::int64_t vocab, bool with_mask = false);
  MegatronWriter(const MegatronWriter&) = delete;
  MegatronWriter& operator=(const MegatronWriter&) = delete;

  /// Appends one document. Throws InvalidArgument on an id outside [0, vocab).
  void add(std::span<const std::int32_t> document);
  /// Appends a part of a document, which end_document() ends; `counted` is empty or the mask of its
  /// tokens. Throws InvalidArgument on an id outside [0, vocab).
  void append(std::span<const std::int32_t> part, std::span<const std::uint8_t> counted = {});
  void end_document();
  /// Syncs the files and puts them in place. Without a mask, one of an earlier file is removed.
  void finish();

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(lengths_.size()); }

 private:
  std::filesystem::path bin_, idx_, mask_path_;
  std::int64_t vocab_;
  NewFile data_;
  std::optional<NewFile> mask_;
  std::vector<std::int32_t> lengths_;
  std::vector<std::uint16_t> narrow_;
  std::int64_t tokens_ = 0;
  std::int64_t document_tokens_ = 0;  // of the one under way
};

}  // namespace polymoe
