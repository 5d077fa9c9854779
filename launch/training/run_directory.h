// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace polymoe {

/// The directory that a run owns: RUN/config.ini, environment.json, metrics.jsonl, tensorboard/,
/// checkpoints/, tokenizer.model. One rank holds it, for as long as the run goes on.
class RunDirectory {
 public:
  /// Creates the directory where it is missing, locks it and proves that it can be written. On a
  /// file system without locks it is not locked, and warning() says so.
  /// Throws OutputFileError when it cannot be, InvalidArgument naming host and process when
  /// another run holds it. One that was made here is removed again unless the run begins.
  explicit RunDirectory(const std::filesystem::path& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  /// Nothing was refused: from here on the directory stays.
  void begin() { begun_ = true; }

  const std::filesystem::path& path() const { return path_; }
  /// What the log should say; empty for a locked directory.
  const std::string& warning() const { return warning_; }
  /// Whether the path still leads to the directory that was locked. Throws OutputFileError where
  /// it was moved, removed or replaced meanwhile.
  void check_in_place() const;

 private:
  bool in_place() const;
  void leave();

  std::filesystem::path path_;
  std::string warning_;
  bool made_here_;
  bool begun_ = false;
  int lock_ = -1;  // open file descriptor of RUN/lock
};

/// The log of the run in that directory, with dates: what it says on stderr, and how it ended.
std::filesystem::path run_log(const std::filesystem::path& run_directory);

}  // namespace polymoe
