// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

namespace polymoe {

/// Consecutive steps of a run, "20-25" or "20".
struct StepRange {
  std::int64_t first = 1;
  std::int64_t last = 1;

  static constexpr const char* allowed = "FIRST-LAST or one step, from 1; empty = none";
  static std::optional<StepRange> parse(std::string_view text) {
    const auto whole = [](std::string_view digits) -> std::optional<std::int64_t> {
      std::int64_t value = 0;
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc() || end != digits.data() + digits.size() || value < 1)
        return std::nullopt;
      return value;
    };
    const std::size_t dash = text.find('-');
    const auto first = whole(text.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : whole(text.substr(dash + 1));
    if (!first || !last || *last < *first) return std::nullopt;
    return StepRange{.first = *first, .last = *last};
  }
};

}  // namespace polymoe
