// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/files/file.h"
#include "runtime/files/megatron_index.h"

namespace polymoe {

/// A file of token ids, recognised by its form:
///   megatron  PREFIX.bin with PREFIX.idx (Megatron-LM's IndexedDataset, integer dtypes)
///   llm.c     NAME.bin that starts with llm.c's magic, u16 or u32
///   raw       NAME.npy without a NumPy header, as OLMo and Dolma write it: u16 or u32
/// A loss mask may lie beside any of them. Nothing is read but what is asked for: opening costs the
/// same whatever the size, and a file that became shorter meanwhile is an error that names it.
/// Move-only. All reads are thread-safe.
class TokenFile {
 public:
  enum class Form : std::uint8_t { megatron, llm_c, raw };
  using Range = MegatronIndex::Range;

  /// `path` is NAME.bin, NAME.npy, or for Megatron any of PREFIX, PREFIX.bin, PREFIX.idx.
  /// `token_bytes` (2 or 4) is the width of raw tokens; the other forms say theirs.
  /// Checks headers and the ends of an index against the file sizes; check() does the rest. Throws
  /// InputFileError when the file is missing, truncated, empty or of another form;
  /// InvalidArgument for another token_bytes.
  static TokenFile open(const std::filesystem::path& path, int token_bytes);

  /// The file with the tokens.
  const std::filesystem::path& path() const { return data_->path(); }
  /// The index of the Megatron form; null for the other forms.
  const InputFile* index() const;
  std::int64_t bytes() const { return data_->bytes(); }
  /// What one token takes.
  int token_bytes() const;
  Form form() const { return form_; }
  /// "Megatron u16", "llm.c u32", "raw u16", ...
  std::string form_name() const;

  std::int64_t tokens() const { return tokens_; }
  /// Documents of the file; 0 where the form has no boundaries (llm.c, raw), or its index was never
  /// told any.
  std::int64_t documents() const;
  /// The tokens of document `i` in [0, documents()); may be empty. Documents are consecutive.
  /// Throws InputFileError where the index contradicts itself there.
  Range document(std::int64_t i) const;
  /// Where documents [first, first + count) begin and the last of them ends: count + 1 tokens,
  /// ascending. Throws as document() does.
  std::vector<std::int64_t> document_bounds(std::int64_t first, std::int64_t count) const;
  /// The first tokens of the documents that begin in [begin, end), in order, each once; empty
  /// documents have none.
  std::vector<std::int64_t> document_starts(std::int64_t begin, std::int64_t end) const;

  /// out[0 .. count) = tokens [begin, begin + count). Throws InvalidArgument beyond the end and
  /// InputFileError with position and id of the first token outside [0, vocab).
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out,
            std::int64_t vocab = std::int64_t{1} << 31) const;

  /// Whether a loss mask lies beside it: PREFIX.mask.bin, a byte per token, 0 where the token is
  /// not to be predicted.
  bool masked() const { return mask_.has_value(); }
  /// As read(), with -1 in place of tokens that are not to be predicted.
  void read_targets(std::int64_t begin, std::int64_t count, std::int32_t* out,
                    std::int64_t vocab) const;

  /// Reads all of the index once. Throws InputFileError at the first entry that contradicts the
  /// others or the file sizes.
  void check_index() const;
  /// Reads the whole file once. Throws InputFileError with position and id of the first token
  /// outside [0, vocab).
  void check_vocabulary(std::int64_t vocab) const;
  /// The largest id; ids below 0 count as their unsigned value. Reads the whole file once.
  std::uint64_t max_token() const;
  /// Whether raw tokens that are read as u16 are u32 in truth, by a few samples of the file: every
  /// second one is 0 or 1, and the others are not.
  bool looks_like_u32() const;

 private:
  enum class Element : std::uint8_t { u8, i8, i16, i32, i64, u16, u32 };

  TokenFile() = default;
  static TokenFile open_megatron(const std::filesystem::path& prefix);
  static TokenFile open_llm_c(const std::filesystem::path& path);
  static TokenFile open_raw(const std::filesystem::path& path, int token_bytes);
  template <class Body>
  auto with_type(Body body) const;
  template <class Body>
  void for_each_block(std::int64_t begin, std::int64_t end, Body body) const;

  void open_mask(const std::filesystem::path& prefix);

  std::optional<InputFile> data_, mask_;
  std::optional<MegatronIndex> index_;
  Form form_ = Form::raw;
  Element element_ = Element::u16;
  std::int64_t first_byte_ = 0;  // of the tokens within data_
  std::int64_t tokens_ = 0;
};

}  // namespace polymoe
