// SPDX-License-Identifier: Apache-2.0
#include "launch/explaining/monitor.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/explaining/explanation.h"
#include "launch/machine/signals.h"
#include "parallel/communication/ledger.h"
#include "runtime/error.h"
#include "runtime/log.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// The oldest operation under way: posted, not finished.
std::optional<LedgerOperation> oldest_open(const LedgerView& ledger) {
  std::optional<LedgerOperation> oldest;
  for (const LedgerView::Group& group : ledger.groups)
    for (const LedgerOperation& operation : group.operations)
      if (operation.done == 0.0 && (!oldest || operation.posted < oldest->posted))
        oldest = operation;
  return oldest;
}

/// Whether a lower rank of this node, alive, waits as well.
bool another_speaks(const std::vector<ExplainedRank>& ranks, int own_rank) {
  return std::ranges::any_of(ranks, [&](const ExplainedRank& rank) {
    return rank.ledger.rank < own_rank && rank.state != ProcessState::elsewhere &&
           rank.state != ProcessState::gone && rank.state != ProcessState::stopped &&
           oldest_open(rank.ledger).has_value();
  });
}

}  // namespace

RunMonitor::RunMonitor(const Ledger& ledger, Log& log, Options options)
    : ledger_(ledger),
      log_(log),
      options_(std::move(options)),
      answered_(explanations_asked_for()),
      thread_([this] { watch(); }) {}

RunMonitor::~RunMonitor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    ends_.notify_all();
  }
  thread_.join();
}

void RunMonitor::watch() {
  constexpr std::chrono::milliseconds interval{250};
  std::unique_lock lock(mutex_);
  while (!ends_.wait_for(lock, interval, [&] { return stopping_; })) {
    lock.unlock();
    try {
      look();
    } catch (const std::exception& error) {
      // A ledger that is being made or removed: the next look sees another one.
      if (dynamic_cast<const InputFileError*>(&error) == nullptr) log_.warning(error.what());
    }
    lock.lock();
  }
}

void RunMonitor::tell(const std::string& what) {
  log_.warning(what);
  if (options_.alarm.empty()) return;
  const std::string problem = start_alarm(options_.alarm, what, options_.run_directory);
  if (!problem.empty()) log_.warning("run.alarm cannot be started: " + problem);
}

/// Says which rank of this node has ended without a word, while its launcher ends the others.
void RunMonitor::look_after_peers() {
  if (told_of_loss_ || options_.ranks_on_node < 2) return;
  if (peers_.empty()) {
    std::vector<ExplainedRank> here = read_ranks(options_.run_directory);
    std::erase_if(here, [](const ExplainedRank& rank) {
      return rank.state == ProcessState::elsewhere || rank.state == ProcessState::gone;
    });
    if (static_cast<int>(here.size()) < options_.ranks_on_node) return;
    peers_ = std::move(here);
  }
  const int own = ledger_.view().rank;
  bool first_alive = true;
  for (const ExplainedRank& peer : peers_) {
    if (peer.ledger.rank == own) continue;
    if (state_of(peer.ledger.process) != ProcessState::gone) {
      first_alive = first_alive && peer.ledger.rank > own;
      continue;
    }
    told_of_loss_ = true;
    const std::vector<ExplainedRank> ranks = read_ranks(options_.run_directory);
    const auto lost = std::ranges::find_if(
        ranks, [&](const auto& rank) { return rank.ledger.rank == peer.ledger.rank; });
    // One that ended in good order, or said why it did not, leaves no ledger or says so there.
    if (lost == ranks.end() || lost->ledger.place.doing == ending_by_error) continue;
    if (first_alive) log_.error(loss_text(*lost, ledger_time()));
  }
}

void RunMonitor::look() {
  look_after_peers();
  const double now = ledger_time();
  const LedgerView own = ledger_.view();
  if (const int asked = explanations_asked_for(); asked != answered_) {
    answered_ = asked;
    if (options_.first_on_node) {
      const auto ranks = read_ranks(options_.run_directory);
      log_.warning("SIGUSR2: " + explain(ranks, now) + "\n" + rank_table(ranks, now));
    } else {
      log_.info("SIGUSR2");
    }
  }
  const bool starting = own.median_step_seconds == 0.0;
  const double patience = starting
                              ? options_.start_patience_seconds
                              : std::max(options_.patience_seconds, 5 * own.median_step_seconds);
  const auto open = oldest_open(own);
  if (open && open->posted != told_ && now - open->posted >= patience) {
    told_ = open->posted;
    const auto ranks = read_ranks(options_.run_directory);
    if (another_speaks(ranks, own.rank)) return;
    // What is prepared may be long without anything being wrong.
    if (starting)
      log_.warning(explain(ranks, now));
    else
      tell(explain(ranks, now));
  } else if (!starting && !open && own.ranks == 1 && own.there_since != told_of_ &&
             now - own.there_since >= patience) {
    told_of_ = own.there_since;
    tell(explain(read_ranks(options_.run_directory), now));
  }
}

std::string start_alarm(const std::string& command, const std::string& what,
                        const fs::path& run_directory) {
  // The shell starts the command in the background and ends: then it is nobody's to wait for.
  const std::string line = "{ " + command + "\n} < /dev/null &";
  std::vector<std::string> variables = {"POLYMOE_ALARM=" + what,
                                        "POLYMOE_RUN=" + run_directory.string()};
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable)
    environment.push_back(*variable);
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  std::string shell = "sh", option = "-c", text = line;
  std::array<char*, 4> arguments{shell.data(), option.data(), text.data(), nullptr};
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, pipe;
  sigemptyset(&none);
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &pipe);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t process = 0;
  const int error =
      posix_spawn(&process, "/bin/sh", nullptr, &attributes, arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return std::strerror(error);
  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  return status == 0 ? "" : "the shell does not understand it";
}

std::string last_explanation(const Ledger& ledger, const fs::path& run_directory) {
  if (ledger.file().empty()) return "";
  const LedgerView own = ledger.view();
  std::error_code error;
  fs::create_directory(run_directory / "ledger", error);  // not of a run that has no directory yet
  fs::copy_file(ledger.file(), run_directory / "ledger" / ledger_name(own.rank),
                fs::copy_options::overwrite_existing, error);
  const auto ranks = read_ranks(run_directory);
  if (another_speaks(ranks, own.rank)) return "";
  return explain(ranks, ledger_time());
}

}  // namespace polymoe
