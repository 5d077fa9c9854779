// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/claim.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "launch/config/values.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

const char* const released = "released";

/// When a process began, in the kernel's ticks since boot: a number used again is another process.
/// Empty where there is no such process.
std::string beginning_of(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  if (!std::getline(file, line)) return {};
  // The name, in parentheses, may hold blanks; the beginning is field 22, the 20th behind it.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;
  return field;
}

std::string own_line() {
  return fmt::format("{} {} {}\n", host_name(), getpid(), beginning_of(getpid()));
}

/// The highest generation there is; -1 = none.
std::int64_t highest(const fs::path& directory) {
  std::int64_t most = -1;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("claim.")) continue;
    most = std::max(most, parse_count(name.substr(6)).value_or(-1));
  }
  return most;
}

fs::path generation(const fs::path& directory, std::int64_t number) {
  return directory / fmt::format("claim.{}", number);
}

/// Whether a file was not touched for as long as a lease, by the clock of its own file system.
bool lease_is_over(const fs::path& path) {
  const fs::path probe = path.parent_path() / fmt::format(".clock.{}.{}", host_name(), getpid());
  OutputFile(probe).close();
  struct stat now = {}, then = {};
  const bool both = stat(probe.c_str(), &now) == 0 && stat(path.c_str(), &then) == 0;
  fs::remove(probe);
  return both && static_cast<double>(now.st_mtime - then.st_mtime) > Claim::lease_seconds;
}

/// Whoever holds a generation; empty where it is free.
std::string holder_of(const fs::path& path) {
  std::ifstream file(path);
  std::string host, process, beginning;
  file >> host >> process >> beginning;
  if (host == released) return {};
  const auto number = parse_count(process);
  if (host.empty() || !number) return lease_is_over(path) ? "" : "a process that is just starting";
  std::string holder = fmt::format("process {} on {}", process, host);
  if (host != host_name()) return lease_is_over(path) ? "" : holder;
  return beginning_of(static_cast<pid_t>(*number)) == beginning ? holder : "";
}

}  // namespace

std::optional<Claim> Claim::take(const fs::path& directory, std::string& holder) {
  make_directories(directory);
  const std::int64_t last = highest(directory);
  if (last >= 0) {
    holder = holder_of(generation(directory, last));
    if (!holder.empty()) return std::nullopt;
  }
  const fs::path path = generation(directory, last + 1);
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    if (errno != EEXIST)
      throw OutputFileError(path.string(), fmt::format("cannot be created: {}", strerror(errno)));
    holder = "a process that was faster";
    return std::nullopt;
  }
  const std::string line = own_line();
  const bool written =
      write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (close(descriptor) != 0 || !written) {
    fs::remove(path);
    throw OutputFileError(path.string(), "cannot be written");
  }
  // One who looked long ago may have created a generation that others have left behind.
  if (highest(directory) > last + 1) {
    fs::remove(path);
    holder = "a process that was faster";
    return std::nullopt;
  }
  // The one before stays, for those who look at it now.
  for (std::int64_t old = last - 1; old >= 0 && fs::remove(generation(directory, old)); --old) {
  }
  return Claim(path);
}

Claim::Claim(Claim&& other) noexcept : path_(std::exchange(other.path_, {})) {}

Claim::~Claim() {
  if (path_.empty()) return;
  // What cannot be written is free as soon as this process is gone.
  std::ofstream(path_, std::ios::trunc) << released << '\n';
}

void Claim::refresh() const noexcept { utimensat(AT_FDCWD, path_.c_str(), nullptr, 0); }

}  // namespace polymoe
