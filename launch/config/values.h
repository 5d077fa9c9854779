// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

/// A whole number: digits with an optional sign, fraction, exponent and factor k (1e3), M (1e6) or
/// B (1e9), where the value is whole: "4096", "1e6", "4k", "1.5B". Exact, never through floating
/// point. Nothing if the text is not such a number, or it does not fit 64 bits.
std::optional<std::int64_t> parse_count(std::string_view text);

/// A finite decimal number; nothing for anything else ("nan", "inf", hexadecimal, "1.0x").
std::optional<double> parse_real(std::string_view text);

/// The shortest decimal text that parse_real reads back as the same number.
std::string shortest(double value);

/// "6,919,161,856".
std::string with_separators(std::int64_t value);

/// Parts of a text between white space.
std::vector<std::string> split_words(std::string_view text);
std::string_view trim(std::string_view text);

/// Numbers that a setting may take, given and printed as "[1, 64]", "(0, 1)", "[0, inf)".
class Interval {
 public:
  /// Throws InvalidArgument if the text is not of that form.
  explicit Interval(std::string_view text);
  bool contains(double value) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  double low_ = 0.0, high_ = 0.0;
  bool low_open_ = false, high_open_ = false;
};

/// The least number of insertions, deletions, replacements and swaps of neighbours that turn one
/// text into the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate with the least edit distance to `name`, the first of equals; empty if none is
/// near: a slip changes at most a third of a name, or leaves out its end. With names of the form
/// "section.key" the key alone is tried as well, so that a key in the wrong section is found.
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace polymoe
