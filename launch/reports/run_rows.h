// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// Rows of a file of one JSON object a line, as a run writes them.
struct RunRows {
  std::vector<Json> rows;  // of a long file a part, evenly spread
  std::int64_t lines = 0;  // of the file
  bool torn = false;       // the last line is unfinished, as a crash leaves it, and left out

  /// A number of every row; NaN where a row has none.
  std::vector<double> column(const std::string& key) const;
  /// A number of a row's object `key`, e.g. step_seconds.
  std::vector<double> column(const std::string& key, const std::string& member) const;
  /// Entry `index` of a row's array `key`.
  std::vector<double> column(const std::string& key, std::size_t index) const;
  /// Entries of the array `key` in the last row that has it; 0 where none has.
  std::size_t entries(const std::string& key) const;
  /// The members of any row whose names start so, in the order in which they come first.
  std::vector<std::string> keys(const std::string& prefix) const;
};

/// At most about `most_rows` rows: the first, the last and evenly chosen ones, and every row with a
/// member whose name starts with one of `always`. Rows that a resumed run wrote again
/// count as it wrote them last. Throws InputFileError with file and line on a row that is no JSON
/// object, unless it is the last one.
RunRows read_run_rows(const std::filesystem::path& path, std::size_t most_rows,
                      const std::vector<std::string>& always = {});

}  // namespace polymoe
