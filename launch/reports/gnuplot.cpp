// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/gnuplot.h"

#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "runtime/error.h"

extern char** environ;

namespace polymoe {
namespace {

/// A file in memory without a name.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("gnuplot", MFD_CLOEXEC)) { check(descriptor_); }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int descriptor() const { return descriptor_; }

  void write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      check(written);
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    check(lseek(descriptor_, 0, SEEK_SET));
  }

  std::string content() const {
    const off_t size = lseek(descriptor_, 0, SEEK_END);
    check(size);
    std::string text(static_cast<std::size_t>(size), '\0');
    std::size_t done = 0;
    while (done < text.size()) {
      const ssize_t count =
          pread(descriptor_, text.data() + done, text.size() - done, static_cast<off_t>(done));
      check(count);
      if (count == 0) break;
      done += static_cast<std::size_t>(count);
    }
    return text;
  }

 private:
  static void check(std::int64_t result) {
    if (result < 0) throw Error(std::string("a file in memory: ") + std::strerror(errno));
  }
  int descriptor_;
};

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\t') c = ' ';
  return text;
}

}  // namespace

std::string run_gnuplot(const std::string& script) {
  MemoryFile input, output, errors;
  input.write(script);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.descriptor(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.descriptor(), STDERR_FILENO);
  std::string program = "gnuplot", plain = "--default-settings";
  const std::array<char*, 3> arguments = {program.data(), plain.data(), nullptr};
  pid_t process = 0;
  const int failure =
      posix_spawnp(&process, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure == ENOENT)
    throw InvalidArgument("gnuplot, which draws the pictures, was not found: install gnuplot-nox");
  if (failure != 0) throw Error(std::string("gnuplot: ") + std::strerror(failure));
  int status = 0;
  while (waitpid(process, &status, 0) < 0)
    if (errno != EINTR) throw Error(std::string("gnuplot: ") + std::strerror(errno));
  if (!WIFEXITED(status) || WEXITSTATUS(status) == 127)
    throw InvalidArgument(
        "gnuplot, which draws the pictures, could not be run: install gnuplot-nox");
  if (WEXITSTATUS(status) != 0) throw Error("gnuplot: " + one_line(errors.content()));
  return output.content();
}

}  // namespace polymoe
