// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace polymoe {

/// A program to be started: arguments, what it finds in its environment beside ours, and the file
/// that its output is appended to.
struct ProcessStart {
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;
  std::filesystem::path output;
};

/// A program that runs beside this one, in a process group of its own so that a Ctrl-C reaches it
/// only through us. Should this process die, it gets SIGUSR1: save and end.
class CellProcess {
 public:
  /// Throws OutputFileError where the output cannot be opened or no process can be made.
  explicit CellProcess(const ProcessStart& start);
  CellProcess(CellProcess&& other) noexcept : process_(std::exchange(other.process_, -1)) {}
  CellProcess& operator=(CellProcess&&) = delete;
  CellProcess(const CellProcess&) = delete;
  CellProcess& operator=(const CellProcess&) = delete;
  ~CellProcess() = default;

  /// Its exit code once it has ended, 128 + the signal where one ended it; nothing while it runs.
  std::optional<int> ended();
  void signal(int number) const;

 private:
  pid_t process_ = -1;
};

/// The last line of a program's output that is not empty, at most 300 characters of it.
std::string last_line(const std::filesystem::path& output);

}  // namespace polymoe
