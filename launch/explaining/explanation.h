// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "parallel/communication/ledger.h"

namespace polymoe {

/// What the system says of a rank's process, where it is one of this machine.
enum class ProcessState : std::uint8_t { elsewhere, gone, stopped, sleeping, running, in_system };

/// A rank as the explanation sees it.
struct ExplainedRank {
  LedgerView ledger;
  ProcessState state = ProcessState::elsewhere;
};

/// One paragraph: who waits for whom, in which operation, since when, and of what kind the cause
/// is. `now` in seconds since 1970. Of ranks whose ledger is not there it says so.
///
/// A rank waits in the oldest operation that it has posted and not finished. Others are then behind
/// (they have not posted it), elsewhere (their operation of that number is another one, or of
/// another size where sizes must agree), or in it as well: then it is what lies between them.
std::string explain(const std::vector<ExplainedRank>& ranks, double now);

/// A sentence about a rank whose process has ended without a word.
std::string loss_text(const ExplainedRank& rank, double now);

/// What a ledger says its rank is doing when it ends by an error, which it tells itself.
inline constexpr const char* ending_by_error = "ending by an error";

/// A line per rank: process, what it does, since when, its oldest open operation.
std::string rank_table(const std::vector<ExplainedRank>& ranks, double now);

/// The ledgers of a run that this node has, and those that were copied to RUN/ledger; of one rank
/// the one on this node counts. Ordered by rank.
std::vector<ExplainedRank> read_ranks(const std::filesystem::path& run_directory);

/// Of the directories of ledgers whose ranks are all gone keeps so many, the newest, and removes
/// the others.
void remove_old_ledgers(const std::vector<std::filesystem::path>& directories, std::size_t kept);

/// How a process of this machine does.
ProcessState state_of(int process);

/// Where the threads of a rank's process are, as far as the system tells: a line each.
std::string thread_lines(int process);

}  // namespace polymoe
