// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "launch/scaling/fit.h"
#include "launch/scaling/form.h"
#include "launch/scaling/law.h"
#include "launch/scaling/law_report.h"
#include "launch/scaling/runs.h"
#include "launch/studies/cell_result.h"
#include "launch/studies/study.h"
#include "launch/studies/study_report.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

ScalingForm parse_form(const std::string& text) {
  for (const ScalingForm form :
       {ScalingForm::chinchilla, ScalingForm::moe, ScalingForm::granularity})
    if (text == name_of(form)) return form;
  throw InvalidArgument("--form " + text + ": must be one of chinchilla, moe, granularity");
}

/// The other forms beside the chosen one, by what they predict and what they cost.
std::string other_forms(ScalingForm chosen, const std::vector<ScalingRun>& runs) {
  std::string text;
  for (const ScalingForm form :
       {ScalingForm::chinchilla, ScalingForm::moe, ScalingForm::granularity}) {
    if (form == chosen || !fit_violations(form, runs).empty()) continue;
    const ScalingFit fit = fit_scaling_law(form, runs);
    const auto held_out = hold_out_largest(form, runs, 0);
    text += fmt::format("  {:<12} AICc {:>9.1f}   error of the largest size {}\n", name_of(form),
                        fit.akaike,
                        held_out ? fmt::format("{:.2f} %", 100.0 * held_out->mean_error) : "-");
  }
  return text.empty() ? text : "\nOther forms of the same runs\n" + text;
}

/// Each argument's runs: a study's as far as they are, or a table's.
std::vector<RunTable> tables_of(const CommandLine& line) {
  constexpr std::int64_t most_bytes = 256 << 20;
  std::vector<RunTable> tables;
  bool any_study = false;
  for (const std::string& name : line.positional()) {
    const std::filesystem::path file = name;
    if (file.extension() == ".csv") {
      tables.push_back({.name = name, .text = read_file(file, most_bytes)});
      continue;
    }
    any_study = true;
    const Study study = read_study(file, line.overrides());
    tables.push_back({.name = name, .text = runs_csv(study, read_results(study))});
  }
  if (!any_study && !line.overrides().empty())
    throw InvalidArgument(line.overrides().front() +
                          ": changes the cells of a study, and there is none");
  return tables;
}

int run_scale_fit(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = scale_fit_command().parse(args);
  const ScalingForm form = parse_form(line.value("form", "chinchilla"));
  const std::string counted = line.value("parameters", "active-no-embeddings");
  const auto count = parse_parameter_count(counted);
  if (!count)
    throw InvalidArgument("--parameters " + counted +
                          ": must be one of active, active-no-embeddings, total, "
                          "total-no-embeddings");
  constexpr std::int64_t most_resamples = 100000;
  const auto resamples = parse_count(line.value("resamples", "1000"));
  if (!resamples || *resamples < 100 || *resamples > most_resamples)
    throw InvalidArgument("--resamples " + line.value("resamples") +
                          ": must be a whole number in [100, 100000]");
  const std::string activation = line.value("activation");
  const std::vector<ScalingRun> runs = read_scaling_runs(tables_of(line), *count, activation);
  const std::vector<std::string> violations = fit_violations(form, runs);
  if (!violations.empty() && (!line.has("force") || runs.empty()))
    throw InvalidArgument(list_violations("scale fit (--force fits all the same)", violations));
  for (const std::string& violation : violations)
    std::cerr << "polymoe: warning: " << violation << "\n";

  const auto held_out = hold_out_largest(form, runs, static_cast<int>(*resamples));
  const ScalingLaw law = make_law(form, runs, *count, activation, static_cast<int>(*resamples));
  std::cout << law_text(law, held_out, runs) << other_forms(form, runs);
  const std::filesystem::path out = line.value("out");
  make_directories(out);
  replace_file(out / "fit.json", law_json(law).dump() + "\n");
  if (!line.has("no-page")) replace_file(out / "index.html", law_html(law, held_out, runs));
  std::cout << "\nwritten: " << (out / "fit.json").string()
            << (line.has("no-page") ? "" : ", index.html") << "\n";
  return exit_done;
}

}  // namespace

const Command& scale_fit_command() {
  static const Command command = {
      .name = "scale fit",
      .summary =
          "Fits a scaling law to the finished runs of studies (their files, or .csv tables like "
          "runs.csv of `study report`), with intervals, and tests it on the largest size",
      .arguments = "STUDY...",
      .positional = 1,
      .more_positional = true,
      .options =
          {{.name = "out", .value = "DIR", .help = "of fit.json and index.html", .required = true},
           {.name = "form",
            .value = "FORM",
            .help = "chinchilla, moe or granularity; default chinchilla"},
           {.name = "parameters",
            .value = "COUNT",
            .help = "what N counts: active, active-no-embeddings, total, "
                    "total-no-embeddings; default active-no-embeddings"},
           {.name = "activation", .value = "NAME", .help = "only runs with that activation"},
           {.name = "resamples",
            .value = "N",
            .help = "of the bootstrap over trunks; default 1000"},
           {.name = "force",
            .value = "",
            .help = "fits also too few runs, or fewer than 3 sizes or lengths"},
           {.name = "no-page", .value = "", .help = "no index.html, which needs gnuplot"}},
      .overrides = true,
      .run = run_scale_fit};
  return command;
}

}  // namespace polymoe
