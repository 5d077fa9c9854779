// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/metrics_writer.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

/// The row; null where the line is none, or one of a later step.
Json row_up_to(const std::string& line, std::int64_t last_step) {
  try {
    Json row = parse_json(line, "row");
    return row.at("step").as_integer() <= last_step ? row : Json();
  } catch (const Error&) {
    return {};
  }
}

/// Cuts an existing file behind the last row that stays, which `last` becomes, with where it
/// begins.
const std::filesystem::path& keep_rows(const std::filesystem::path& path, std::int64_t last_step,
                                       Json& last, std::int64_t& last_begins) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return path;
  std::int64_t kept = 0;
  {
    std::ifstream file(path, std::ios::binary);
    std::string line;
    while (std::getline(file, line) && !file.eof()) {
      Json row = row_up_to(line, last_step);
      if (row.is_null()) break;
      last = std::move(row);
      last_begins = kept;
      kept += std::ssize(line) + 1;
    }
    if (file.bad()) throw OutputFileError(path.string(), "cannot read the rows to continue");
  }
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(kept), error);
  if (error) {
    throw OutputFileError(path.string(), "cannot remove rows beyond step " +
                                             std::to_string(last_step) + ": " + error.message());
  }
  return path;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, std::int64_t last_step)
    : file_(keep_rows(path, last_step, last_, last_begins_), OutputFile::Mode::append) {}

void MetricsWriter::write(const Json& row) {
  last_begins_ = file_.bytes();
  last_ = row;
  file_.write(row.dump() + "\n");
  file_.flush();
}

void MetricsWriter::complete(const Json& row) {
  if (last_.is_null() || last_.at("step").as_integer() != row.at("step").as_integer())
    return write(row);
  Json whole = Json::object();
  for (const Json::Member& member : last_.members()) {
    const Json* changed = row.find(member.key);
    whole.set(member.key, changed != nullptr ? *changed : member.value);
  }
  for (const Json::Member& member : row.members())
    if (last_.find(member.key) == nullptr) whole.set(member.key, member.value);
  last_ = std::move(whole);
  file_.replace_from(last_begins_, last_.dump() + "\n");
}

}  // namespace polymoe
