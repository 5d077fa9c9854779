// SPDX-License-Identifier: Apache-2.0
#include "launch/config/ini.h"

#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/values.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

/// The beginning of a line of whatever was given as a configuration, for a terminal.
std::string shown(std::string_view line) {
  constexpr std::size_t most = 60;
  std::string text;
  for (const char c : line.substr(0, most)) text += c >= ' ' && c <= '~' ? c : '?';
  return line.size() > most ? text + "..." : text;
}

}  // namespace

std::vector<Assignment> parse_ini(const std::string& text, const std::string& origin) {
  // Some editors mark a file as UTF-8 by three bytes.
  constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    refuse_violations(origin, {"is text in UTF-16: save it as UTF-8"});
  std::istringstream stream(text.starts_with(byte_order_mark) ? text.substr(byte_order_mark.size())
                                                              : text);
  // Unknown keys, duplicates and values are judged against our own table, so that all violations
  // are found at once.
  std::vector<Assignment> assignments;
  Violations found;
  std::string section, whole;
  for (int number = 1; std::getline(stream, whole); ++number) {
    const std::string_view line = trim(std::string_view(whole).substr(0, whole.find('#')));
    const std::size_t equals = line.find('=');
    if (line.empty()) continue;
    if (line.front() == '[' && line.back() == ']') {
      section = std::string(trim(line.substr(1, line.size() - 2))) + ".";
    } else if (equals != std::string_view::npos && !trim(line.substr(0, equals)).empty()) {
      assignments.push_back({section + std::string(trim(line.substr(0, equals))),
                             std::string(trim(line.substr(equals + 1)))});
    } else {
      found.add("line " + std::to_string(number) + ": '" + shown(line) +
                "': must be [section], key = value, or a comment behind #");
    }
  }
  refuse_violations(origin, found.lines());
  return assignments;
}

}  // namespace polymoe
