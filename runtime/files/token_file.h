// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/files/file.h"

namespace polymoe {

/// A memory-mapped file of token ids, recognised by its form:
///   megatron  PREFIX.bin with PREFIX.idx (Megatron-LM's IndexedDataset, integer dtypes)
///   llm.c     NAME.bin that starts with llm.c's magic, u16 or u32
///   raw       NAME.npy without a NumPy header, as OLMo and Dolma write it: u16 or u32
/// Copies share nothing; move-only. All reads are thread-safe.
class TokenFile {
 public:
  enum class Form : std::uint8_t { megatron, llm_c, raw };
  /// Half-open range of tokens.
  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t size() const { return end - begin; }
  };

  /// `path` is NAME.bin, NAME.npy, or for Megatron any of PREFIX, PREFIX.bin, PREFIX.idx.
  /// `token_bytes` (2 or 4) is the width of raw tokens; the other forms say theirs.
  /// Checks every length against the file sizes. Throws InputFileError when the file is missing,
  /// truncated, empty or of another form; InvalidArgument for another token_bytes.
  static TokenFile open(const std::filesystem::path& path, int token_bytes);

  /// Of the file with the tokens.
  const std::filesystem::path& path() const { return data_.path(); }
  Form form() const { return form_; }
  /// "Megatron u16", "llm.c u32", "raw u16", ...
  std::string form_name() const;

  std::int64_t tokens() const { return tokens_; }
  /// Documents of the file; 0 where the form has no boundaries (llm.c, raw).
  std::int64_t documents() const { return documents_; }
  /// The tokens of document `i` in [0, documents()); may be empty. Documents are consecutive.
  Range document(std::int64_t i) const;

  /// out[0 .. count) = tokens [begin, begin + count). Throws InvalidArgument beyond the end and
  /// InputFileError on an id that is no i32 >= 0.
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const;

  /// Reads the whole file once. Throws InputFileError with position and id of the first token
  /// outside [0, vocab).
  void check_vocabulary(std::int64_t vocab) const;
  /// The largest id; ids below 0 count as their unsigned value. Reads the whole file once.
  std::uint64_t max_token() const;

 private:
  enum class Element : std::uint8_t { u8, i8, i16, i32, i64, u16, u32 };

  TokenFile() = default;
  static TokenFile open_megatron(const std::filesystem::path& prefix);
  static TokenFile open_llm_c(const std::filesystem::path& path);
  static TokenFile open_raw(const std::filesystem::path& path, int token_bytes);
  void check_index(std::int64_t sequences, std::int64_t boundaries);
  template <class Body>
  auto with_tokens(Body body) const;

  MappedFile data_, index_;
  Form form_ = Form::raw;
  Element element_ = Element::u16;
  std::int64_t first_byte_ = 0;  // of the tokens within data_
  std::int64_t tokens_ = 0;
  std::int64_t documents_ = 0;
  std::int64_t sequences_ = 0;
};

}  // namespace polymoe
