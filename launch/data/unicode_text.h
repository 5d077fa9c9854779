// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace polymoe {

enum class Utf8Form : std::uint8_t { whole, front, broken };
struct Utf8Character {
  Utf8Form form;
  std::size_t bytes;  // of the character, of its front, or of what is broken
};
/// What stands at the front of `text`, which is not empty: a character, the front of one that the
/// text cuts off, or bytes that are neither (Unicode 15, table 3-7).
Utf8Character first_character(std::string_view text);

/// The code point that starts at byte `at` of valid UTF-8, which moves behind it.
char32_t next_code_point(std::string_view text, std::size_t& at);
/// Appends a code point as UTF-8.
void append_code_point(std::string& text, char32_t c);
/// The only code point of a text; throws InvalidArgument where there is none or more than one.
char32_t only_code_point(std::string_view text);

/// The text with every byte sequence that is no UTF-8 as U+FFFD, as Unicode recommends (the longest
/// front of a character counts as one).
std::string valid_utf8(std::string_view text);
bool is_valid_utf8(std::string_view text);

/// Unicode's White_Space, Numeric (Nd, Nl, No), punctuation (P*, and ASCII's symbols), marks (M*).
bool is_white_space(char32_t c);
bool is_numeric(char32_t c);
bool is_punctuation(char32_t c);
bool is_mark(char32_t c);
/// Letters, marks, decimal digits and connectors: \w of a regular expression.
bool is_word(char32_t c);

enum class NormalForm : std::uint8_t { nfc, nfd, nfkc, nfkd };
/// The normal form of valid UTF-8.
std::string normalized(std::string_view text, NormalForm form);
/// Every code point in lower case by itself, whatever stands around it.
std::string lower_case(std::string_view text);

}  // namespace polymoe
