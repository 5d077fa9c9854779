// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_vocabulary.h"

#include <fmt/core.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t most_ids = std::int64_t{1} << 24;

/// The character of each byte.
std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    characters[byte] = printable ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}

}  // namespace

std::string byte_level_spelling(std::string_view bytes) {
  static const std::array<char32_t, 256> characters = byte_characters();
  std::string spelling;
  for (const char c : bytes) append_code_point(spelling, characters[static_cast<unsigned char>(c)]);
  return spelling;
}

std::string byte_level_bytes(std::string_view spelling) {
  static const std::unordered_map<char32_t, char> bytes_by_character = [] {
    std::unordered_map<char32_t, char> map;
    const std::array<char32_t, 256> characters = byte_characters();
    for (std::size_t byte = 0; byte < 256; ++byte) map[characters[byte]] = static_cast<char>(byte);
    return map;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < spelling.size();) {
    const auto found = bytes_by_character.find(next_code_point(spelling, at));
    if (found == bytes_by_character.end()) return std::string(spelling);
    bytes += found->second;
  }
  return bytes;
}

int fallback_byte(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const auto digit = std::string_view("0123456789ABCDEF").find(c);
    if (digit == std::string_view::npos) return -1;
    value = value * 16 + static_cast<int>(digit);
  }
  return value;
}

std::string text_of(const Json& json, const char* key, const std::string& otherwise) {
  const Json* value = json.find(key);
  return value == nullptr || value->is_null() ? otherwise : value->as_string();
}

bool flag_of(const Json& json, const char* key) {
  const Json* value = json.find(key);
  return value != nullptr && !value->is_null() && value->as_bool();
}

void PieceVocabulary::add(const std::string& piece, std::int64_t id) {
  if (id < 0 || id >= most_ids)
    throw InvalidArgument(
        fmt::format("model: piece '{}' has id {}: must be in [0, {})", piece, id, most_ids));
  const auto place = static_cast<std::size_t>(id);
  if (place >= pieces_.size()) pieces_.resize(place + 1, nullptr);
  const auto entry = ids_.insert_or_assign(piece, static_cast<std::int32_t>(id)).first;
  pieces_[place] = &entry->first;
}

std::int32_t PieceVocabulary::id_of(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* PieceVocabulary::piece_of(std::int32_t id) const {
  return id < 0 || id >= size() ? nullptr : pieces_[static_cast<std::size_t>(id)];
}

std::optional<std::vector<std::int32_t>> PieceVocabulary::fallback_ids(
    std::string_view text) const {
  std::vector<std::int32_t> ids;
  for (const char c : text) {
    ids.push_back(id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c))));
    if (ids.back() < 0) return std::nullopt;
  }
  return ids;
}

}  // namespace polymoe
