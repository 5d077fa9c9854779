// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/metrics_writer.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <system_error>

#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

bool is_row_up_to(const std::string& line, std::int64_t last_step) {
  try {
    return parse_json(line, "row").at("step").as_integer() <= last_step;
  } catch (const Error&) {
    return false;
  }
}

/// Cuts an existing file behind the last row that stays.
const std::filesystem::path& keep_rows(const std::filesystem::path& path, std::int64_t last_step) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return path;
  std::uintmax_t kept = 0;
  {
    std::ifstream file(path, std::ios::binary);
    std::string line;
    while (std::getline(file, line) && !file.eof() && is_row_up_to(line, last_step)) {
      kept += line.size() + 1;
    }
    if (file.bad()) throw OutputFileError(path.string(), "cannot read the rows to continue");
  }
  std::filesystem::resize_file(path, kept, error);
  if (error) {
    throw OutputFileError(path.string(), "cannot remove rows beyond step " +
                                             std::to_string(last_step) + ": " + error.message());
  }
  return path;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, std::int64_t last_step)
    : file_(keep_rows(path, last_step), OutputFile::Mode::append) {}

void MetricsWriter::write(const Json& row) {
  file_.write(row.dump() + "\n");
  file_.flush();
}

}  // namespace polymoe
