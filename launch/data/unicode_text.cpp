// SPDX-License-Identifier: Apache-2.0
#include "launch/data/unicode_text.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/error.h"

namespace polymoe {
namespace {

const icu::Normalizer2& normalizer(NormalForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found = nullptr;
  switch (form) {
    case NormalForm::nfc:
      found = icu::Normalizer2::getNFCInstance(status);
      break;
    case NormalForm::nfd:
      found = icu::Normalizer2::getNFDInstance(status);
      break;
    case NormalForm::nfkc:
      found = icu::Normalizer2::getNFKCInstance(status);
      break;
    case NormalForm::nfkd:
      found = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  if (U_FAILURE(status) || found == nullptr)
    throw Error(std::string("ICU has no data of Unicode normalisation: ") + u_errorName(status));
  return *found;
}

UChar32 icu_char(char32_t c) { return static_cast<UChar32>(c); }

}  // namespace

Utf8Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Utf8Form::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Form::broken, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Form::front, text.size()};
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) return {Utf8Form::broken, i};
  }
  return {Utf8Form::whole, length};
}

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t c = length == 1 ? lead : lead & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length && at + i < text.size(); ++i)
    c = (c << 6) | (byte(at + i) & 0x3FU);
  at = std::min(at + length, text.size());
  return c;
}

void append_code_point(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    text += static_cast<char>(0xC0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      text += static_cast<char>(0xE0 | (c >> 12));
    } else {
      text += static_cast<char>(0xF0 | (c >> 18));
      text += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    }
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
  }
  text += static_cast<char>(0x80 | (c & 0x3F));
}

char32_t only_code_point(std::string_view text) {
  std::size_t at = 0;
  if (!text.empty()) {
    const char32_t c = next_code_point(text, at);
    if (at == text.size()) return c;
  }
  throw InvalidArgument("'" + std::string(text) + "': must be one character");
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const Utf8Character character = first_character(text);
    if (character.form == Utf8Form::whole)
      valid.append(text.substr(0, character.bytes));
    else
      valid.append("\xEF\xBF\xBD");
    text.remove_prefix(character.bytes);
  }
  return valid;
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    // ASCII is nearly all there is.
    std::size_t plain = 0;
    while (plain < text.size() && static_cast<unsigned char>(text[plain]) < 0x80) ++plain;
    text.remove_prefix(plain);
    if (text.empty()) break;
    const Utf8Character character = first_character(text);
    if (character.form != Utf8Form::whole) return false;
    text.remove_prefix(character.bytes);
  }
  return true;
}

bool is_white_space(char32_t c) { return u_isUWhiteSpace(icu_char(c)) != 0; }
bool is_numeric(char32_t c) {
  return (U_GET_GC_MASK(icu_char(c)) & (U_GC_ND_MASK | U_GC_NL_MASK | U_GC_NO_MASK)) != 0;
}
bool is_punctuation(char32_t c) {
  const bool ascii_symbol = (c >= '!' && c <= '/') || (c >= ':' && c <= '@') ||
                            (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  return ascii_symbol || u_ispunct(icu_char(c)) != 0;
}
bool is_mark(char32_t c) { return (U_GET_GC_MASK(icu_char(c)) & U_GC_M_MASK) != 0; }
bool is_word(char32_t c) {
  return u_hasBinaryProperty(icu_char(c), UCHAR_ALPHABETIC) != 0 ||
         (U_GET_GC_MASK(icu_char(c)) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

std::string normalized(std::string_view text, NormalForm form) {
  const icu::Normalizer2& rule = normalizer(form);
  UErrorCode status = U_ZERO_ERROR;
  const icu::StringPiece piece(text.data(), static_cast<std::int32_t>(text.size()));
  if (text.size() > static_cast<std::size_t>(INT32_MAX))
    throw InvalidArgument("text of " + std::to_string(text.size()) +
                          " bytes: Unicode normalisation takes at most 2147483647");
  std::string result;
  icu::StringByteSink<std::string> sink(&result, piece.length());
  rule.normalizeUTF8(0, piece, sink, nullptr, status);
  if (U_FAILURE(status))
    throw Error(std::string("ICU cannot normalise a text: ") + u_errorName(status));
  return result;
}

std::string lower_case(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    append_code_point(result, static_cast<char32_t>(u_tolower(icu_char(c))));
    // The one code point whose lower case is two: a dotted I.
    if (c == 0x130) append_code_point(result, 0x307);
  }
  return result;
}

}  // namespace polymoe
