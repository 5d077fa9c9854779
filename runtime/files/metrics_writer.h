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

 private:
  OutputFile file_;
};

}  // namespace polymoe
