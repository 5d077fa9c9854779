// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/run_rows.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

double number_of(const Json* value) {
  if (value == nullptr) return none;
  try {
    return value->as_number();
  } catch (const InvalidArgument&) {
    return none;  // null stands for what is not finite
  }
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    if (end > 0) lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace

std::vector<double> RunRows::column(const std::string& key) const {
  std::vector<double> values;
  for (const Json& row : rows) values.push_back(number_of(row.find(key)));
  return values;
}

std::vector<double> RunRows::column(const std::string& key, const std::string& member) const {
  std::vector<double> values;
  for (const Json& row : rows) {
    const Json* object = row.find(key);
    values.push_back(object != nullptr && object->is_object() ? number_of(object->find(member))
                                                              : none);
  }
  return values;
}

std::vector<double> RunRows::column(const std::string& key, std::size_t index) const {
  std::vector<double> values;
  for (const Json& row : rows) {
    const Json* array = row.find(key);
    const bool there = array != nullptr && array->is_array() && index < array->items().size();
    values.push_back(there ? number_of(&array->items()[index]) : none);
  }
  return values;
}

std::size_t RunRows::entries(const std::string& key) const {
  for (auto row = rows.rbegin(); row != rows.rend(); ++row)
    if (const Json* array = row->find(key); array != nullptr && array->is_array())
      return array->items().size();
  return 0;
}

std::vector<std::string> RunRows::keys(const std::string& prefix) const {
  std::vector<std::string> found;
  for (const Json& row : rows)
    for (const Json::Member& member : row.members())
      if (member.key.starts_with(prefix) &&
          std::find(found.begin(), found.end(), member.key) == found.end())
        found.push_back(member.key);
  return found;
}

RunRows read_run_rows(const std::filesystem::path& path, std::size_t most_rows,
                      const std::vector<std::string>& always) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()),
                              static_cast<std::size_t>(file.bytes()));
  const std::vector<std::string_view> lines = lines_of(text);
  const auto is_wanted = [&](std::string_view line) {
    return std::any_of(always.begin(), always.end(), [&](const std::string& start) {
      return line.find('"' + start) != std::string_view::npos;
    });
  };
  RunRows result{.rows = {}, .lines = static_cast<std::int64_t>(lines.size())};
  const std::size_t stride = std::max<std::size_t>(1, divide_up(lines.size(), most_rows));
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const bool last = i + 1 == lines.size();
    if (i % stride != 0 && !last && !is_wanted(lines[i])) continue;
    std::optional<Json> row;
    try {
      row = parse_json(lines[i], fmt::format("{}, line {}", path.string(), i + 1));
    } catch (const InputFileError&) {
      if (!last) throw;
      result.torn = true;
      --result.lines;
      break;
    }
    if (!row->is_object())
      throw InputFileError(fmt::format("{}, line {}", path.string(), i + 1),
                           "is not a JSON object");
    // A run that went on from an earlier checkpoint has written these steps again.
    const double step = number_of(row->find("step"));
    while (!result.rows.empty() && number_of(result.rows.back().find("step")) >= step)
      result.rows.pop_back();
    result.rows.push_back(std::move(*row));
  }
  return result;
}

}  // namespace polymoe
