// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/explaining/explanation.h"
#include "parallel/communication/ledger.h"
#include "runtime/error.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// Without errors: a directory that is not there has none.
std::vector<fs::path> ledger_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().filename().string().starts_with("rank-")) files.push_back(entry.path());
  return files;
}

/// When a rank last wrote something down.
double last_sign_of(const LedgerView& ledger) {
  double last = std::max(ledger.begun, ledger.there_since);
  for (const LedgerView::Group& group : ledger.groups)
    for (const LedgerOperation& one : group.operations)
      last = std::max({last, one.posted, one.started, one.done});
  return last;
}

}  // namespace

/// The field behind the name in /proc/PID/stat, where the name may hold anything.
ProcessState state_of(int process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  if (!std::getline(file, line)) return ProcessState::gone;
  const std::size_t name_end = line.rfind(')');
  switch (name_end == std::string::npos || name_end + 2 >= line.size() ? '?' : line[name_end + 2]) {
    case 'Z':
    case 'X':
      return ProcessState::gone;
    case 'T':
    case 't':
      return ProcessState::stopped;
    case 'D':
      return ProcessState::in_system;
    case 'R':
      return ProcessState::running;
    default:
      return ProcessState::sleeping;
  }
}

std::vector<ExplainedRank> read_ranks(const fs::path& run_directory) {
  std::map<int, ExplainedRank> ranks;
  const fs::path own = ledger_directory(run_directory);
  double newest = 0.0;
  for (const fs::path& directory : {own, run_directory / "ledger"}) {
    for (const fs::path& file : ledger_files(directory)) {
      ExplainedRank rank{.ledger = read_ledger(file)};
      if (rank.ledger.host == host_name()) {
        // Another process may have the number by now; the lock of the file was this one's alone.
        const bool lost = directory == own && rank.ledger.locked && !ledger_is_held(file);
        rank.state = lost ? ProcessState::gone : state_of(rank.ledger.process);
        newest = std::max(newest, rank.ledger.begun);
      }
      const int number = rank.ledger.rank;
      ranks.emplace(number, std::move(rank));  // of two the first
    }
  }
  // What had its end before another of this node began is of a run before.
  std::erase_if(ranks, [&](const auto& one) {
    return one.second.state == ProcessState::gone && last_sign_of(one.second.ledger) < newest;
  });
  std::vector<ExplainedRank> ordered;
  // So are ranks beyond the number that the first one knows.
  for (auto& [number, rank] : ranks)
    if (number < ranks.begin()->second.ledger.ranks) ordered.push_back(std::move(rank));
  return ordered;
}

void remove_old_ledgers(const std::vector<fs::path>& directories, std::size_t kept) {
  struct Old {
    double last_sign;
    fs::path directory;
  };
  std::vector<Old> old;
  for (const fs::path& directory : directories) {
    try {
      const std::vector<fs::path> files = ledger_files(directory);
      double last_sign = 0.0;
      const bool all_gone = std::ranges::all_of(files, [&](const fs::path& file) {
        const LedgerView ledger = read_ledger(file);
        last_sign = std::max(last_sign, last_sign_of(ledger));
        return ledger.host == host_name() && state_of(ledger.process) == ProcessState::gone &&
               !ledger_is_held(file);
      });
      if (all_gone && !files.empty()) old.push_back({last_sign, directory});
    } catch (const InputFileError&) {
      // Of another version, or being made or removed: its own run's matter.
    }
  }
  if (old.size() <= kept) return;
  std::ranges::sort(old, std::ranges::greater{}, &Old::last_sign);
  std::error_code error;
  for (const Old& one : std::span(old).subspan(kept)) {
    for (const fs::path& file : ledger_files(one.directory)) fs::remove(file, error);
    fs::remove(one.directory, error);
  }
}

std::string thread_lines(int process) {
  std::string lines;
  std::error_code error;
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", process), error)) {
    const std::string stat = first_line(task.path() / "stat");
    const std::size_t name_end = stat.rfind(')');
    const std::string wait = first_line(task.path() / "wchan");
    const std::string call = first_line(task.path() / "syscall");
    lines += fmt::format("  thread {} '{}': {}{}{}\n", task.path().filename().string(),
                         first_line(task.path() / "comm"),
                         name_end == std::string::npos || name_end + 2 >= stat.size()
                             ? "gone"
                             : "state " + stat.substr(name_end + 2, 1),
                         wait.empty() || wait == "0" ? "" : ", in " + wait,
                         call.empty() ? "" : ", system call " + call.substr(0, call.find(' ')));
  }
  return lines;
}

}  // namespace polymoe
