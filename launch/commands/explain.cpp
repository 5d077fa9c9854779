// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/explaining/explanation.h"
#include "launch/machine/exit_code.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = explain_command().parse(args);
  const std::filesystem::path directory = line.positional().at(0);
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const std::vector<ExplainedRank> ranks = read_ranks(directory);
  // A run that is being prepared has none yet.
  if (ranks.empty() && !std::filesystem::exists(directory / "config.ini"))
    throw InputFileError(directory.string(), "is no run directory: it has no config.ini");
  std::cout << explain(ranks, now) << "\n";
  if (!ranks.empty()) std::cout << "\n" << rank_table(ranks, now);
  if (line.has("stacks"))
    for (const ExplainedRank& rank : ranks)
      if (rank.state != ProcessState::elsewhere && rank.state != ProcessState::gone)
        std::cout << "\nrank " << rank.ledger.rank << "\n" << thread_lines(rank.ledger.process);
  return exit_done;
}

}  // namespace

const Command& explain_command() {
  static const Command command = {
      .name = "explain",
      .summary = "Says which rank a run waits for, live or after its end",
      .arguments = "RUN",
      .positional = 1,
      .options = {{.name = "stacks",
                   .value = "",
                   .help = "where the threads of each rank on this node are"}},
      .run = run};
  return command;
}

}  // namespace polymoe
