// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command_line.h"
#include "launch/commands/named_inputs.h"
#include "launch/reports/run_report.h"

#include <fmt/core.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/machine/exit_code.h"
#include "runtime/files/named_output.h"

namespace polymoe {
namespace {

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = report_command().parse(args);
  std::vector<std::filesystem::path> runs;
  for (const std::string& run : line.positional()) runs.emplace_back(run);
  std::vector<NamedPath> inputs;
  for (const auto& run : runs) add_run(inputs, "RUN", run);
  refuse_to_replace({{"--out", line.value("out")}}, inputs);
  const RunReport report = report_runs(runs);
  write_named_output(line.value("out"), report.html);
  // A page on standard output has nothing behind it.
  std::ostream& said = is_device_or_pipe(line.value("out")) ? std::cerr : std::cout;
  for (const std::string& note : report.notes) said << note << "\n";
  said << fmt::format("{}: {} figures of {} run{}\n", line.value("out"), report.figures,
                      runs.size(), runs.size() == 1 ? "" : "s");
  return exit_done;
}

}  // namespace

const Command& report_command() {
  static const Command command = {.name = "report",
                                  .summary = "Shows runs as a page of pictures for a browser",
                                  .arguments = "RUN...",
                                  .positional = 1,
                                  .more_positional = true,
                                  .options = {{.name = "out",
                                               .value = "FILE.html",
                                               .help = "the page; it needs nothing beside it",
                                               .required = true}},
                                  .ranks = false,
                                  .run = run};
  return command;
}

}  // namespace polymoe
