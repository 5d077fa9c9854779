// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_report.h"

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/machine/exit_code.h"
#include "launch/studies/cell_result.h"
#include "launch/studies/comparison.h"
#include "launch/studies/study.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

int run_study_report(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = study_report_command().parse(args);
  const Study study = read_study(line.positional().front(), line.overrides());
  const std::vector<CellResult> results = read_results(study);
  const Comparison comparison = compare(study, results);
  const std::filesystem::path out = line.value("out", (study.directory / "report").string());
  make_directories(out);
  replace_file(out / "runs.csv", runs_csv(study, results));
  replace_file(out / "results.json", results_json(study, results, comparison).dump_indented());
  std::cout << report_text(study, results, comparison);
  for (const std::string& name : foreign_cells(study))
    std::cout << study.directory.string() << "/" << name
              << ": no cell of this study any more, left out\n";
  if (!line.has("no-page"))
    replace_file(out / "index.html", report_html(study, results, comparison));
  std::cout << "\nwritten: " << (out / "runs.csv").string() << ", results.json"
            << (line.has("no-page") ? "" : ", index.html") << "\n";
  return exit_done;
}

}  // namespace

const Command& study_report_command() {
  static const Command command = {
      .name = "study report",
      .summary =
          "Compares a study's cells, finished or not: tables, curves, intervals over seeds, "
          "differences from its baseline",
      .arguments = "FILE",
      .positional = 1,
      .options = {{.name = "out",
                   .value = "DIR",
                   .help = "of runs.csv, results.json, index.html; default report in the study's "
                           "directory"},
                  {.name = "no-page", .value = "", .help = "no index.html, which needs gnuplot"}},
      .overrides = true,
      .run = run_study_report};
  return command;
}

}  // namespace polymoe
