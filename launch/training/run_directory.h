// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace polymoe {

/// The directory that a run owns: RUN/config.ini, environment.json, metrics.jsonl, tensorboard/,
/// checkpoints/, tokenizer.model. One rank holds it, for as long as the run goes on.
class RunDirectory {
 public:
  /// Creates the directory where it is missing, locks it and proves that it can be written.
  /// Throws OutputFileError when it cannot be, InvalidArgument naming host and process when
  /// another run holds it.
  explicit RunDirectory(const std::filesystem::path& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int lock_ = -1;  // open file descriptor of RUN/lock
};

/// The log of the run in that directory, with dates: what it says on stderr, and how it ended.
std::filesystem::path run_log(const std::filesystem::path& run_directory);

}  // namespace polymoe
