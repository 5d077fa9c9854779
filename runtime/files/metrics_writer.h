// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

#include "runtime/files/file.h"
#include "runtime/files/json.h"

namespace polymoe {

/// Appends rows to a JSON Lines file, each flushed to the system when write() returns. Used by one
/// rank. Non-finite numbers are null (see Json::dump).
class MetricsWriter {
 public:
  /// Continues a run that has done `last_step` steps: existing rows are kept up to the first one
  /// whose "step" is larger, or that is no whole JSON object (a run was killed while it wrote), so
  /// that no step appears twice. A new run has last_step 0.
  /// Throws OutputFileError when the file cannot be written.
  MetricsWriter(const std::filesystem::path& path, std::int64_t last_step);

  /// `row` is an object with an integer "step".
  void write(const Json& row);
  /// Adds the members of `row` to the last row, where that is of the same step; those that it has
  /// already get the new values. Else the same as write().
  void complete(const Json& row);
  /// The last row of the file; null where there is none.
  const Json& last() const { return last_; }

 private:
  Json last_;                     // what of the file stays is read before that is opened
  std::int64_t last_begins_ = 0;  // where it stands in the file
  OutputFile file_;
};

}  // namespace polymoe
