// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/cell_process.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <ios>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "runtime/error.h"

extern char** environ;

namespace polymoe {
namespace {

/// What an exec takes; made before the fork, behind which nothing may allocate.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& more) {
  std::vector<std::string> result;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    const bool replaced = std::any_of(more.begin(), more.end(), [&](const auto& given) {
      return text.starts_with(given.first + "=");
    });
    if (!replaced) result.push_back(text);
  }
  for (const auto& [name, value] : more) result.push_back(name + "=" + value);
  return result;
}

}  // namespace

CellProcess::CellProcess(const ProcessStart& start) {
  const int output = open(start.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0)
    throw OutputFileError(start.output.string(),
                          fmt::format("cannot be opened: {}", std::strerror(errno)));
  std::vector<std::string> arguments = start.arguments;
  std::vector<std::string> variables = environment_with(start.environment);
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> variable_pointers = pointers(variables);
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGUSR1);
    if (getppid() != parent) _exit(85);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
      _exit(74);
    execve(argument_pointers[0], argument_pointers.data(), variable_pointers.data());
    _exit(64);
  }
  const int cause = errno;
  close(output);
  if (process_ < 0)
    throw OutputFileError(start.arguments.front(),
                          fmt::format("cannot be started: {}", std::strerror(cause)));
  setpgid(process_, process_);
}

std::optional<int> CellProcess::ended() {
  int status = 0;
  if (process_ < 0 || waitpid(process_, &status, WNOHANG) != process_) return std::nullopt;
  process_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void CellProcess::signal(int number) const {
  if (process_ > 0) kill(process_, number);
}

std::string last_line(const std::filesystem::path& output) {
  constexpr std::streamoff most = 4096;
  std::ifstream file(output, std::ios::binary | std::ios::ate);
  if (!file) return {};
  file.seekg(std::max<std::streamoff>(0, file.tellg() - most));
  std::string line, last;
  while (std::getline(file, line))
    if (!trim(line).empty()) last = trim(line);
  return last.substr(0, 300);
}

}  // namespace polymoe
