// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/machine/exit_code.h"
#include "launch/studies/study.h"
#include "launch/studies/study_costs.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

int run_study_plan(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = study_plan_command().parse(args);
  Study study = read_study(line.positional().front(), line.overrides());
  if (line.has("rates")) study.flops_per_second = measured_flops_per_second(line.value("rates"));
  const std::vector<CellCost> costs = plan_cells(study);
  std::cout << cost_table(study, costs) << std::flush;
  for (const std::string& name : foreign_cells(study))
    std::cout << study.directory.string() << "/" << name << ": no cell of this study any more\n";
  const std::vector<std::string> over = budget_violations(study, costs);
  refuse_violations(study.file.string(), over);
  return exit_done;
}

}  // namespace

const Command& study_plan_command() {
  static const Command command = {
      .name = "study plan",
      .summary =
          "Lists a study's cells: parameters, tokens, FLOP, memory and time, against its "
          "budget",
      .arguments = "FILE",
      .positional = 1,
      .options = {{.name = "rates",
                   .value = "FILE",
                   .help = "of `polymoe bench --json` on that machine, for the time"}},
      .overrides = true,
      .run = run_study_plan};
  return command;
}

}  // namespace polymoe
