// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_directory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include "parallel/checkpoint/names.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::string& action) {
  throw OutputFileError(path.string(), fmt::format("{}: {}", action, std::strerror(errno)));
}

std::string read_start(int descriptor) {
  std::array<char, 256> text{};
  const ssize_t count = pread(descriptor, text.data(), text.size(), 0);
  std::string holder(text.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder.empty() ? "an unnamed process" : holder;
}

/// Whether "process P on HOST" is of another machine than this.
bool on_another_host(const std::string& holder) {
  const std::size_t at = holder.rfind(" on ");
  return holder.starts_with("process ") && at != std::string::npos &&
         holder.substr(at + 4) != host_name();
}

/// Lustre without -o flock, DVS, some FUSE: every process sees it alike, so none can be kept out.
bool has_no_locks(int error) {
  return error == ENOSYS || error == ENOTSUP || error == EOPNOTSUPP || error == ENOLCK;
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& path) : path_(path), made_here_(!fs::exists(path)) {
  make_directories(path);
  const fs::path lock = path / "lock";
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail(lock, "run.dir cannot be written");
  const int cause = flock(lock_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  if (has_no_locks(cause)) {
    warning_ = fmt::format(
        "run.dir = {}: its file system has no locks ({}): nothing keeps a second run out of it",
        path.string(), std::strerror(cause));
  } else if (cause != 0) {
    const std::string holder = read_start(lock_);
    close(lock_);
    lock_ = -1;
    if (cause == EWOULDBLOCK && on_another_host(holder))
      throw CommunicationError(fmt::format(
          "run.dir = {}: in use by a run of another machine ({}), which goes on or is cut off: its "
          "lock ends when that process does, or when the file system gives the machine up; try "
          "again then",
          path.string(), holder));
    if (cause == EWOULDBLOCK)
      throw InvalidArgument(fmt::format(
          "run.dir = {}: in use by another run ({}); wait for it or choose another directory",
          path.string(), holder));
    errno = cause;
    fail(lock, "cannot be locked");
  }
  try {
    const std::string holder = fmt::format("process {} on {}\n", getpid(), host_name());
    if (ftruncate(lock_, 0) != 0 ||
        pwrite(lock_, holder.data(), holder.size(), 0) != static_cast<ssize_t>(holder.size()))
      fail(lock, "cannot be written");
    for (const char* name : {checkpoints_folder, "tensorboard"}) {
      make_directories(path / name);
      const fs::path probe = path / name / ".writable";
      replace_file(probe, "");
      fs::remove(probe);
    }
  } catch (...) {
    leave();
    throw;
  }
}

fs::path run_log(const fs::path& run_directory) { return run_directory / "run.log"; }

bool RunDirectory::in_place() const {
  const fs::path lock = path_ / "lock";
  struct stat held {
  }, named{};
  return fstat(lock_, &held) == 0 && stat(lock.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

void RunDirectory::check_in_place() const {
  if (in_place()) return;
  throw OutputFileError(path_.string(),
                        "run.dir was moved, removed or replaced while the run went on");
}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0) leave();
}

void RunDirectory::leave() {
  std::error_code ignored;
  if (made_here_ && !begun_ && in_place()) fs::remove_all(path_, ignored);
  // Unlocks. The file of a run that began stays, so that a waiting run locks the same one.
  close(lock_);
}

}  // namespace polymoe
