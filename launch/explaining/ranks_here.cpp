// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <fstream>
#include <map>
#include <system_error>

#include "launch/explaining/explanation.h"
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
  for (const fs::path& directory : {ledger_directory(run_directory), run_directory / "ledger"}) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory, error)) {
      if (!entry.path().filename().string().starts_with("rank-")) continue;
      ExplainedRank rank{.ledger = read_ledger(entry.path())};
      if (rank.ledger.host == host_name()) rank.state = state_of(rank.ledger.process);
      const int number = rank.ledger.rank;
      ranks.emplace(number, std::move(rank));  // of two the first
    }
  }
  std::vector<ExplainedRank> ordered;
  // Ranks beyond the number that the first one knows are of a run before.
  for (auto& [number, rank] : ranks)
    if (number < ranks.begin()->second.ledger.ranks) ordered.push_back(std::move(rank));
  return ordered;
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
