// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "runtime/files/file.h"

namespace polymoe {

/// PREFIX.idx of Megatron-LM's IndexedDataset: sequences of tokens, one behind the other in
/// PREFIX.bin, and the sequences at which documents begin. Nothing is read but what is asked for.
class MegatronIndex {
 public:
  /// Half-open range of tokens.
  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t size() const { return end - begin; }
  };

  /// Checks header and size. Throws InputFileError.
  explicit MegatronIndex(const std::filesystem::path& path);

  const InputFile& file() const { return file_; }
  /// The type of the tokens: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16.
  int dtype_code() const { return dtype_code_; }
  /// 0 where the index was never told any.
  std::int64_t documents() const { return documents_; }

  /// Checks the first and the last entries against the file of the tokens, as a new index of the
  /// wrong file, or of half a file, gets them wrong. To be called once, before what follows.
  void attach(const std::filesystem::path& data, std::int64_t data_bytes, int token_bytes);
  /// Reads everything once. Throws InputFileError at the first entry that contradicts the others
  /// or the file of the tokens.
  void check() const;

  /// The tokens of document `i` in [0, documents()). Throws InputFileError where the index
  /// contradicts itself there.
  Range document(std::int64_t i) const;
  /// Where documents [first, first + count) begin and the last of them ends: count + 1 tokens,
  /// ascending. Throws InputFileError where the index contradicts itself there.
  std::vector<std::int64_t> document_bounds(std::int64_t first, std::int64_t count) const;
  /// The first tokens of the documents that begin in [begin, end), in order, each once.
  std::vector<std::int64_t> document_starts(std::int64_t begin, std::int64_t end) const;

 private:
  template <class T>
  std::vector<T> entries(std::int64_t first_byte, std::int64_t begin, std::int64_t count) const;
  std::vector<std::int32_t> lengths(std::int64_t begin, std::int64_t count) const;
  std::vector<std::int64_t> offsets(std::int64_t begin, std::int64_t count) const;
  std::vector<std::int64_t> boundaries(std::int64_t begin, std::int64_t count) const;
  std::int64_t first_token(std::int64_t sequence) const;

  InputFile file_;
  int dtype_code_ = 0;
  std::int64_t sequences_ = 0;
  std::int64_t boundaries_ = 0;
  std::int64_t documents_ = 0;
  std::filesystem::path data_;
  std::int64_t data_bytes_ = 0;
  std::int64_t token_bytes_ = 1;
};

}  // namespace polymoe
