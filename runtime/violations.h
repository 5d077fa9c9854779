// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace polymoe {

/// Collects everything that is wrong with what was given, so that it is told at once.
class Violations {
 public:
  /// "key = value: must be allowed".
  void must_be(const std::string& key, const std::string& value, const std::string& allowed);
  void must_be(const std::string& key, std::int64_t value, const std::string& allowed) {
    must_be(key, std::to_string(value), allowed);
  }
  /// Unless value is in [low, high].
  void in_range(const std::string& key, std::int64_t value, std::int64_t low, std::int64_t high);
  /// Unless value is finite and > 0, or >= 0.
  void positive(const std::string& key, double value);
  void not_negative(const std::string& key, double value);
  /// A line of another form.
  void add(std::string line) { lines_.push_back(std::move(line)); }

  bool empty() const { return lines_.empty(); }
  const std::vector<std::string>& lines() const { return lines_; }
  std::vector<std::string> take() { return std::exchange(lines_, {}); }

 private:
  std::vector<std::string> lines_;
};

/// One line: `heading: line`, or several: `heading: N errors` and a line each, indented, of up to
/// 20: of more the first 19 and how many follow.
std::string list_violations(const std::string& heading, const std::vector<std::string>& lines);

/// Throws InvalidArgument with that list, if there is something on it.
void refuse_violations(const std::string& heading, const std::vector<std::string>& lines);

}  // namespace polymoe
