// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "launch/examining/examination.h"
#include "launch/examining/place.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags)
      : number_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

/// The calls of checkpoints, logs, locks and token files, tried in an empty directory.
void try_calls(const fs::path& directory, Examination& found) {
  const auto attempt = [&](const char* name, const char* without,
                           const std::function<bool()>& call) {
    errno = 0;
    if (call()) return true;
    const std::string what =
        fmt::format("the file system of {} refuses {} ({})",
                    directory.parent_path().parent_path().string(), name, std::strerror(errno));
    if (std::string_view(without).empty())
      found.problems.push_back(what);
    else
      found.remarks.push_back(fmt::format("{}: {}", what, without));
    return false;
  };
  const fs::path first = directory / "first", second = directory / "second", file = first / "file";
  if (!attempt("mkdir", "",
               [&] { return mkdir(first.c_str(), 0755) == 0 && mkdir(second.c_str(), 0755) == 0; }))
    return;
  const std::string text(4096, 'x');
  attempt("to create, write and sync a file", "", [&] {
    const Descriptor made(file, O_RDWR | O_CREAT | O_EXCL);
    return made.get() >= 0 &&
           pwrite(made.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
           fsync(made.get()) == 0 && ftruncate(made.get(), 100) == 0;
  });
  attempt("to append to a file", "", [&] {
    const Descriptor made(file, O_WRONLY | O_APPEND);
    return made.get() >= 0 && write(made.get(), text.data(), 10) == 10;
  });
  attempt("to map a file for reading", "", [&] {
    const Descriptor made(file, O_RDONLY);
    void* map = mmap(nullptr, 100, PROT_READ, MAP_SHARED, made.get(), 0);
    return map != MAP_FAILED && munmap(map, 100) == 0;
  });
  attempt("to sync a directory", "", [&] {
    const Descriptor opened(first, O_RDONLY | O_DIRECTORY);
    return opened.get() >= 0 && fsync(opened.get()) == 0;
  });
  attempt("to rename a file over another", "", [&] {
    const fs::path beside = first / "beside";
    { const Descriptor made(beside, O_WRONLY | O_CREAT); }
    return std::rename(file.c_str(), beside.c_str()) == 0 &&
           std::rename(beside.c_str(), file.c_str()) == 0;
  });
  attempt("to exchange the names of two directories",
          "a checkpoint of a step that there is one of already gets its name in two steps", [&] {
            return renameat2(AT_FDCWD, first.c_str(), AT_FDCWD, second.c_str(), RENAME_EXCHANGE) ==
                   0;
          });
  attempt("to rename a directory", "",
          [&] { return std::rename(first.c_str(), (directory / "third").c_str()) == 0; });
  attempt("flock", "nothing keeps a second run out of a run directory", [&] {
    const Descriptor lock(directory / "lock", O_RDWR | O_CREAT);
    return lock.get() >= 0 && flock(lock.get(), LOCK_EX | LOCK_NB) == 0;
  });
}

/// Writes for a second at most, reads it back from the disk where the system lets go of it, and
/// syncs small writes for half a second.
void measure_speed(const fs::path& directory, int rounds, const std::string& where,
                   Examination& found) {
  constexpr std::size_t block = std::size_t{4} << 20;
  const double seconds_of_each = 0.12 * rounds;
  constexpr int most_blocks = 256;
  const fs::path path = directory / "speed";
  const auto add = [&](const char* name, const char* unit, double value) {
    found.figures.push_back({.name = name, .unit = unit, .where = where, .value = value});
  };
  std::vector<std::uint64_t> content(block / 8);
  for (std::size_t i = 0; i < content.size(); ++i)
    content[i] = i * 0x9e3779b97f4a7c15;  // nothing that compresses
  const Descriptor file(path, O_RDWR | O_CREAT | O_TRUNC);
  const auto fail = [&](const char* action) {
    found.problems.push_back(
        fmt::format("{}: cannot be {}: {}", path.string(), action, std::strerror(errno)));
  };
  if (file.get() < 0) return fail("created");
  auto begin = Clock::now();
  int blocks = 0;
  do {
    if (pwrite(file.get(), content.data(), block, static_cast<off_t>(blocks * block)) !=
        static_cast<ssize_t>(block))
      return fail("written");
    ++blocks;
  } while (blocks < most_blocks && seconds_since(begin) < seconds_of_each);
  if (fsync(file.get()) != 0) return fail("synced");
  const double megabytes = static_cast<double>(blocks) * static_cast<double>(block) * 1e-6;
  add("writing and syncing a file", "MB/s", megabytes / seconds_since(begin));
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  begin = Clock::now();
  int read_blocks = 0;
  while (read_blocks < blocks && (read_blocks == 0 || seconds_since(begin) < seconds_of_each)) {
    if (pread(file.get(), content.data(), block, static_cast<off_t>(read_blocks * block)) !=
        static_cast<ssize_t>(block))
      return fail("read");
    ++read_blocks;
  }
  add("reading a file", "MB/s", megabytes * read_blocks / blocks / seconds_since(begin));
  begin = Clock::now();
  int syncs = 0;
  do {
    if (pwrite(file.get(), content.data(), 4096, 0) != 4096 || fsync(file.get()) != 0)
      return fail("synced");
    ++syncs;
  } while (seconds_since(begin) < seconds_of_each / 2);
  add("syncs of 4 KiB", "per s", syncs / seconds_since(begin));
}

void add_space(const fs::path& directory, const std::string& where, Examination& found) {
  struct statvfs status {};
  if (statvfs(directory.c_str(), &status) != 0) return;
  found.figures.push_back({.name = "free space",
                           .unit = "GiB",
                           .where = where,
                           .value = static_cast<double>(status.f_bavail) *
                                    static_cast<double>(status.f_frsize) / (1024.0 * 1024 * 1024)});
}

/// Whether a file that another node wrote appears here; network file systems may take seconds.
bool appears(const fs::path& file) {
  constexpr double patience_seconds = 5.0;
  for (const auto begin = Clock::now(); seconds_since(begin) < patience_seconds;) {
    std::error_code error;
    if (fs::exists(file, error)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return false;
}

/// A new directory in `parent`; empty with a problem where there can be none.
std::string new_directory_in(const fs::path& parent, Examination& found) {
  std::string name = (parent / ".doctor-XXXXXX").string();
  std::error_code error;
  fs::create_directories(parent, error);
  if (mkdtemp(name.data()) == nullptr) {
    found.problems.push_back(
        fmt::format("{}: nothing can be made in it: {}", parent.string(), std::strerror(errno)));
    return "";
  }
  return name;
}

/// Those of a directory and the ones above it that are not there yet, the innermost first.
std::vector<fs::path> missing_directories(const fs::path& directory) {
  std::vector<fs::path> missing;
  std::error_code error;
  fs::path one = fs::absolute(directory / ".", error).parent_path();
  for (; one.has_relative_path() && !fs::exists(one, error); one = one.parent_path())
    missing.push_back(one);
  return missing;
}

}  // namespace

void examine_files(const fs::path& directory, int rounds, const Examiner& examiner,
                   Communicator& world, Examination& found) {
  const bool first = world.rank() == 0, works = examiner.rank_on_node == 0;
  const std::vector<fs::path> made =
      first ? missing_directories(directory) : std::vector<fs::path>();
  const fs::path room = on_first_rank(world, [&] { return new_directory_in(directory, found); });
  if (room.empty()) return;
  const fs::path lock = room / "lock";
  // Open in all that may share the node's view of it; held until all have tried.
  std::unique_ptr<Descriptor> held;
  if (first) {
    held = std::make_unique<Descriptor>(lock, O_RDWR | O_CREAT);
    if (held->get() >= 0) (void)flock(held->get(), LOCK_EX | LOCK_NB);
  }
  world.barrier();
  const bool shared = works && (first || appears(lock));
  if (works && !shared)
    found.problems.push_back(fmt::format(
        "{} is not the directory of that name on rank 0: checkpoints need a shared file system",
        directory.string()));
  if (shared && !first) {
    const Descriptor again(lock, O_RDWR);
    if (again.get() >= 0 && flock(again.get(), LOCK_EX | LOCK_NB) == 0)
      found.problems.push_back(fmt::format(
          "{}: a file that rank 0 has locked can be locked here too: locks do not reach other "
          "nodes, two jobs may write into one run directory",
          directory.string()));
  }
  world.barrier();
  held.reset();
  if (shared) {
    const std::string where = host_name();
    const fs::path own = room / fmt::format("rank-{}", world.rank());
    if (mkdir(own.c_str(), 0755) == 0) {
      try_calls(own, found);
      measure_speed(own, rounds, where, found);
      add_space(own, where, found);
    } else {
      found.problems.push_back(
          fmt::format("{}: cannot be made: {}", own.string(), std::strerror(errno)));
    }
  }
  world.barrier();
  if (first) {
    std::error_code error;
    fs::remove_all(room, error);
    if (error)
      found.problems.push_back(
          fmt::format("{}: cannot be removed: {}", room.string(), error.message()));
    // What was made here and has stayed empty goes, too.
    for (const fs::path& one : made) fs::remove(one, error);
  }
}

}  // namespace polymoe
