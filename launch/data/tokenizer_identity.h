// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "runtime/files/json.h"

namespace polymoe {

/// By what two tokenizers are told apart, wherever they lie: it travels from `tokenize` to token
/// files, run directory, checkpoints and exports.
struct TokenizerIdentity {
  std::string name;        // "bytes", or the name of a file, for the user
  std::string hash;        // of what it consists of
  std::int64_t vocab = 0;  // ids; 0 = not known

  bool same_as(const TokenizerIdentity& other) const { return hash == other.hash; }
  /// "mine.model (32000 ids, 1f5a0c22)".
  std::string text() const;
  Json to_json() const;
  /// Throws InvalidArgument where a member is missing or of another type.
  static TokenizerIdentity from_json(const Json& json);
};

/// The identity of a tokenizer as load_tokenizer takes it. Throws InputFileError.
TokenizerIdentity identity_of_tokenizer(const std::string& name);

/// What `tokenize` says of the tokens PREFIX.bin, in PREFIX.tokens.json.
struct TokensDescription {
  TokenizerIdentity tokenizer;
  std::int64_t end_of_document = 0;  // id
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
};
/// Throws OutputFileError.
void describe_tokens(const TokensDescription& description, const std::filesystem::path& prefix);

/// The tokenizer that made a token file, as TokenFile::open takes it: from the description beside
/// it, else of the tokenizer that lies there; nothing where there is neither. Throws
/// InputFileError.
std::optional<TokenizerIdentity> tokenizer_of_tokens(const std::filesystem::path& file);
/// The id that ends documents there; nothing without a description.
std::optional<std::int64_t> end_of_document_of_tokens(const std::filesystem::path& file);

}  // namespace polymoe
