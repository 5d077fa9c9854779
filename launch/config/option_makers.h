// SPDX-License-Identifier: Apache-2.0
// An option of each kind of value, as the table of options (option_table.cpp) lists them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/option.h"
#include "launch/config/values.h"

namespace polymoe::option_makers {

/// Where a value stands in a Config. Two functions instead of a type of its own for each key: a
/// maker is then compiled once per type of value.
template <class Value>
class Member {
 public:
  Member(Value& (*of)(Config&), const Value& (*of_const)(const Config&))
      : of_(of), of_const_(of_const) {}
  Value& operator()(Config& config) const { return of_(config); }
  const Value& operator()(const Config& config) const { return of_const_(config); }

 private:
  Value& (*of_)(Config&);
  const Value& (*of_const_)(const Config&);
};

/// A whole number in `range`.
template <class Value>
Option whole(const char* key, const char* range, Member<Value> field, const char* help) {
  Option option{key, std::string("a whole number in ") + range, help, {}, {}};
  option.read = [interval = Interval(range), field](const std::string& text, Config& config) {
    const auto value = parse_count(text);
    if (!value || !interval.contains(static_cast<double>(*value))) return false;
    field(config) = static_cast<Value>(*value);
    return std::in_range<Value>(*value);
  };
  option.print = [field](const Config& config) { return std::to_string(field(config)); };
  return option;
}

/// One of the names.
template <class Value>
Option choice(const char* key, const std::vector<std::pair<std::string, Value>>& names,
              Member<Value> field, const char* help) {
  Option option{key, "one of ", help, {}, {}};
  for (std::size_t i = 0; i < names.size(); ++i)
    option.allowed.append(i == 0 ? "" : ", ").append(names[i].first);
  option.read = [names, field](const std::string& text, Config& config) {
    for (const auto& [name, value] : names) {
      if (name != text) continue;
      field(config) = value;
      return true;
    }
    return false;
  };
  option.print = [names, field](const Config& config) {
    for (const auto& [name, value] : names)
      if (value == field(config)) return name;
    return std::string();
  };
  return option;
}

/// A finite number.
Option real(const char* key, const char* range, Member<double> field, const char* help);
/// A width, or "256 gated"; see GatedWidths.
Option width(const char* key, Member<std::int64_t> field, Member<bool> gated, const char* help);
/// true or false.
Option flag(const char* key, Member<bool> field, const char* help);
Option text(const char* key, Member<std::string> field, const char* help);
/// See schedule.h.
Option duration(const char* key, Member<std::string> field, const char* help);
Option paths(const char* key, Member<std::vector<std::string>> field, const char* help);
/// Files and their weights.
Option files(const char* key, Member<std::vector<WeightedFile>> field, const char* help);
/// Files, every one with a number.
Option epochs(const char* key, Member<std::vector<WeightedFile>> field, const char* help);
Option stages(const char* key, Member<std::vector<DataStage>> field, const char* help);
Option layer_list(const char* key, Member<std::vector<std::int64_t>> field, const char* help);

}  // namespace polymoe::option_makers
