// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_run.h"

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/studies/study.h"
#include "launch/studies/study_costs.h"
#include "runtime/error.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

int run_study_run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = study_run_command().parse(args);
  constexpr std::int64_t most_jobs = 1024;
  const auto jobs = parse_count(line.value("jobs", "1"));
  if (!jobs || *jobs < 1 || *jobs > most_jobs)
    throw InvalidArgument("--jobs " + line.value("jobs") + ": must be a whole number in [1, " +
                          std::to_string(most_jobs) + "]");
  Study study = read_study(line.positional().front(), line.overrides());
  if (line.has("rates")) study.flops_per_second = measured_flops_per_second(line.value("rates"));
  const std::vector<std::string> over = budget_violations(study, plan_cells(study));
  refuse_violations(study.file.string(), over);
  for (const std::string& name : foreign_cells(study))
    std::cerr << "polymoe: warning: " << study.directory.string() << "/" << name
              << ": no cell of this study any more; left as it is\n";
  StudyRunOptions options{.jobs = static_cast<int>(*jobs),
                          .dry_run = line.has("dry-run"),
                          .retry = line.has("retry"),
                          .program = own_program(),
                          .launcher = {}};
  options.launcher = line.value("launcher", find_launcher(options.program).string());
  return run_study(study, options, std::cout);
}

}  // namespace

const Command& study_run_command() {
  static const Command command = {
      .name = "study run",
      .summary = "Runs a study's cells that are not finished; Ctrl-C leaves all resumable",
      .arguments = "FILE",
      .positional = 1,
      .options = {{.name = "jobs",
                   .value = "N",
                   .help = "cells at the same time, which share out cores and GPUs; default 1"},
                  {.name = "dry-run", .value = "", .help = "says what would run"},
                  {.name = "retry", .value = "", .help = "runs cells that diverged again"},
                  {.name = "rates",
                   .value = "FILE",
                   .help = "of `polymoe bench --json`, for a budget in hours"},
                  {.name = "launcher",
                   .value = "FILE",
                   .help = "starts cells of several ranks; default launch/mpirun/run"}},
      .overrides = true,
      .stops_by_itself = true,
      .run = run_study_run};
  return command;
}

}  // namespace polymoe
