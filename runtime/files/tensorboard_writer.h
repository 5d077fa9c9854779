// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "runtime/files/file.h"

namespace polymoe {

/// Writes scalars as a TensorBoard event file: a file of its own per invocation, named
/// events.out.tfevents.SECONDS.HOST.PID, flushed with each call. Used by one rank.
class TensorBoardWriter {
 public:
  struct Scalar {
    std::string tag;  // "train/loss"
    float value;
  };

  /// `wall_time` in seconds since 1970. Continues a run that has done `last_step` steps: the file
  /// says so, and TensorBoard then hides later steps of earlier files. 0 for a new run.
  /// Creates `directory`. Throws OutputFileError.
  TensorBoardWriter(const std::filesystem::path& directory, std::int64_t last_step,
                    double wall_time);

  void add_scalars(std::int64_t step, double wall_time, std::span<const Scalar> scalars);

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void write_record(const std::string& event);

  OutputFile file_;
};

}  // namespace polymoe
