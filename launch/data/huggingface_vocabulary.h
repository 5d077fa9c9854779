// SPDX-License-Identifier: Apache-2.0
// What the kinds of tokenizer models of Hugging Face's files have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// The spelling of bytes as characters that byte-level vocabularies use: printable ones stand for
/// themselves, the others for the characters from U+0100 on.
std::string byte_level_spelling(std::string_view bytes);
/// The bytes that such a spelling stands for; a text with any other character stands for itself.
std::string byte_level_bytes(std::string_view spelling);

/// The byte of a piece "<0x0A>", or -1.
int fallback_byte(std::string_view piece);

/// The value of `key`, or `otherwise` where it is absent or null.
std::string text_of(const Json& json, const char* key, const std::string& otherwise);
/// Whether `key` is true; absent and null are false.
bool flag_of(const Json& json, const char* key);

/// Pieces and ids both ways.
class PieceVocabulary {
 public:
  /// Of a piece that a list has twice the last id counts. Throws InvalidArgument on an id that is
  /// negative or 2^24 at least.
  void add(const std::string& piece, std::int64_t id);
  /// One more than the largest id.
  std::int64_t size() const { return static_cast<std::int64_t>(pieces_.size()); }
  /// -1 where there is no such piece.
  std::int32_t id_of(std::string_view piece) const;
  /// Null where no piece has this id.
  const std::string* piece_of(std::int32_t id) const;
  /// The ids of the text's bytes as pieces "<0x0A>"; nothing where one of them is no piece.
  std::optional<std::vector<std::int32_t>> fallback_ids(std::string_view text) const;

 private:
  // Finds a view without a copy of it.
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> pieces_;  // keys of ids_
};

}  // namespace polymoe
