// SPDX-License-Identifier: Apache-2.0
#include "launch/config/values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Decimal digits at the front of `text`, which is advanced past them.
std::string_view take_digits(std::string_view& text) {
  std::size_t n = 0;
  while (n < text.size() && is_digit(text[n])) ++n;
  std::string_view digits = text.substr(0, n);
  text.remove_prefix(n);
  return digits;
}

}  // namespace

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < text.size();) {
    if (is_space(text[i])) {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < text.size() && !is_space(text[i])) ++i;
    words.emplace_back(text.substr(begin, i - begin));
  }
  return words;
}

std::optional<std::int64_t> parse_count(std::string_view text) {
  text = trim(text);
  bool negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  const std::string_view whole = take_digits(text);
  std::string_view fraction;
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    fraction = take_digits(text);
    if (fraction.empty()) return std::nullopt;
  }
  if (whole.empty()) return std::nullopt;
  int exponent = 0;
  if (!text.empty() && (text.front() == 'e' || text.front() == 'E')) {
    text.remove_prefix(1);
    bool below = false;
    if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
      below = text.front() == '-';
      text.remove_prefix(1);
    }
    const std::string_view digits = take_digits(text);
    if (digits.empty() || digits.size() > 4) return std::nullopt;
    std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (below) exponent = -exponent;
  }
  if (text == "k" || text == "K")
    exponent += 3;
  else if (text == "M")
    exponent += 6;
  else if (text == "B")
    exponent += 9;
  else if (!text.empty())
    return std::nullopt;

  std::string digits(whole);
  digits.append(fraction);
  exponent -= static_cast<int>(fraction.size());
  while (!digits.empty() && digits.back() == '0') {
    digits.pop_back();
    ++exponent;
  }
  digits.erase(0, digits.find_first_not_of('0'));
  if (digits.empty()) return 0;
  if (exponent < 0 || exponent > 18) return std::nullopt;
  digits.append(static_cast<std::size_t>(exponent), '0');
  if (negative) digits.insert(digits.begin(), '-');
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  text = trim(text);
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  if (text.empty()) return std::nullopt;
  const char first = text.front() == '-' && text.size() > 1 ? text[1] : text.front();
  if (!is_digit(first) && first != '.') return std::nullopt;
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::string shortest(double value) {
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  return std::string(buffer, result.ptr);
}

std::string with_separators(std::int64_t value) {
  const std::string digits = std::to_string(value);
  const std::size_t sign = value < 0 ? 1 : 0;
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > sign && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

Interval::Interval(std::string_view text) : text_(text) {
  const std::size_t comma = text.find(", ");
  const auto fail = [&] { throw InvalidArgument("not an interval: '" + text_ + "'"); };
  if (text.size() < 6 || comma == std::string_view::npos) fail();
  low_open_ = text.front() == '(';
  high_open_ = text.back() == ')';
  if ((!low_open_ && text.front() != '[') || (!high_open_ && text.back() != ']')) fail();
  const std::string_view high = text.substr(comma + 2, text.size() - comma - 3);
  const auto low_value = parse_real(text.substr(1, comma - 1));
  const auto high_value =
      high == "inf" ? std::optional(std::numeric_limits<double>::infinity()) : parse_real(high);
  if (!low_value || !high_value) fail();
  low_ = *low_value;
  high_ = *high_value;
}

bool Interval::contains(double value) const {
  return (low_open_ ? value > low_ : value >= low_) &&
         (high_open_ ? value < high_ : value <= high_);
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        current[j] = std::min(current[j], before[j - 2] + 1);
    }
    before.swap(previous);
    previous.swap(current);
  }
  return previous[b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  const auto key_of = [](std::string_view full) {
    const std::size_t dot = full.find('.');
    return dot == std::string_view::npos ? full : full.substr(dot + 1);
  };
  // Beyond any distance: not near.
  constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
  const auto slip = [](std::string_view given, std::string_view meant) {
    if (given.size() >= 3 && meant.starts_with(given)) return std::size_t{1};
    const std::size_t distance = edit_distance(given, meant);
    return 3 * distance <= std::max<std::size_t>(given.size(), 3) ? distance : never;
  };
  std::string best;
  std::size_t best_distance = never;
  for (const std::string& candidate : candidates) {
    std::size_t distance = slip(name, candidate);
    if (candidate.find('.') != std::string::npos) {
      const std::size_t of_key = slip(key_of(name), key_of(candidate));
      if (of_key != never) distance = std::min(distance, of_key + 1);
    }
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace polymoe
