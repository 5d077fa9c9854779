// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/temporary_directory.h"

namespace polymoe::test {

/// What a program answered.
struct ProcessResult {
  int exit_code = -1;  // 128 + signal where a signal ended it
  std::string standard_output;
  std::string standard_error;
};

/// Runs a program to its end, arguments taken literally, in the current directory. One that hangs
/// is ended after five minutes; its exit code is then 124.
inline ProcessResult run_process(const std::vector<std::string>& arguments) {
  const TemporaryDirectory directory;
  const auto output = directory.path() / "out", error = directory.path() / "err";
  const auto quoted = [](const std::string& text) {
    std::string result = "'";
    for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
  };
  std::string command = "timeout -k 5 300 ";
  for (const std::string& argument : arguments) command += quoted(argument) + " ";
  command += "</dev/null >" + quoted(output.string()) + " 2>" + quoted(error.string());
  const int status = std::system(command.c_str());
  if (status == -1) throw std::runtime_error("cannot run " + command);
  ProcessResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.standard_output = read_bytes(output);
  result.standard_error = read_bytes(error);
  return result;
}

}  // namespace polymoe::test
