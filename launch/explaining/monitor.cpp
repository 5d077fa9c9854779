// SPDX-License-Identifier: Apache-2.0
#include "launch/explaining/monitor.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

#include "launch/explaining/explanation.h"
#include "launch/machine/signals.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

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

void RunMonitor::look() {
  const double now = wall_time();
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
  const auto open = oldest_open(own);
  if (!open || own.median_step_seconds == 0.0 || open->sequence == told_) return;
  if (now - open->posted < std::max(options_.patience_seconds, 5 * own.median_step_seconds)) return;
  told_ = open->sequence;
  const auto ranks = read_ranks(options_.run_directory);
  if (!another_speaks(ranks, own.rank)) log_.warning(explain(ranks, now));
}

std::string last_explanation(const Ledger& ledger, const fs::path& run_directory) {
  if (ledger.file().empty()) return "";
  const LedgerView own = ledger.view();
  std::error_code error;
  fs::create_directories(run_directory / "ledger", error);
  fs::copy_file(ledger.file(), run_directory / "ledger" / ledger_name(own.rank),
                fs::copy_options::overwrite_existing, error);
  const auto ranks = read_ranks(run_directory);
  if (another_speaks(ranks, own.rank)) return "";
  return explain(ranks, wall_time());
}

}  // namespace polymoe
