// SPDX-License-Identifier: Apache-2.0
#include "runtime/violations.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

std::string text_of(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace

void Violations::must_be(const std::string& key, const std::string& value,
                         const std::string& allowed) {
  lines_.push_back(key + " = " + value + ": must be " + allowed);
}

void Violations::in_range(const std::string& key, std::int64_t value, std::int64_t low,
                          std::int64_t high) {
  if (value < low || value > high)
    must_be(key, value, "in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
}

void Violations::positive(const std::string& key, double value) {
  if (!std::isfinite(value) || value <= 0) must_be(key, text_of(value), "finite and > 0");
}

void Violations::not_negative(const std::string& key, double value) {
  if (!std::isfinite(value) || value < 0) must_be(key, text_of(value), "finite and >= 0");
}

std::string list_violations(const std::string& heading, const std::vector<std::string>& lines) {
  if (lines.size() == 1) return heading + ": " + lines.front();
  constexpr std::size_t most = 20;
  std::string text = heading + ": " + std::to_string(lines.size()) + " errors";
  const std::size_t listed = lines.size() <= most ? lines.size() : most - 1;
  for (std::size_t i = 0; i < listed; ++i) text += "\n  " + lines[i];
  if (listed < lines.size()) text += "\n  and " + std::to_string(lines.size() - listed) + " more";
  return text;
}

void refuse_violations(const std::string& heading, const std::vector<std::string>& lines) {
  if (!lines.empty()) throw InvalidArgument(list_violations(heading, lines));
}

}  // namespace polymoe
