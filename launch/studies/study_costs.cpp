// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_costs.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/machine/device_choice.h"
#include "launch/step/memory_plan.h"
#include "launch/studies/study.h"
#include "moe/model_size.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/progress.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

constexpr double mebi = 1024.0 * 1024.0;

std::string time_text(double seconds) { return seconds > 0.0 ? clock_text(seconds) : "-"; }

struct Totals {
  double flops = 0.0, tokens = 0.0, seconds = 0.0, memory = 0.0;
};

Totals totals_of(const std::vector<CellCost>& costs) {
  Totals totals;
  for (const CellCost& cost : costs) {
    totals.flops += cost.flops;
    totals.tokens += static_cast<double>(cost.tokens);
    totals.seconds += cost.seconds;
    totals.memory = std::max(totals.memory, static_cast<double>(cost.memory));
  }
  return totals;
}

}  // namespace

std::vector<CellCost> plan_cells(const Study& study) {
  std::map<std::string, MemoryPlan> plans;  // of cells that differ in nothing that takes memory
  std::vector<CellCost> costs;
  for (const Cell& cell : study.cells) {
    Config shape = cell.config;
    shape.train.seed = 0;
    shape.train.steps = 1;
    shape.optimizer.schedule = Schedule::constant;
    shape.run.dir.clear();
    shape.checkpoint.resume = "auto";
    const int threads =
        shape.run.threads > 0 ? shape.run.threads : std::max(usable_cores() / cell.ranks, 1);
    const std::string key = fmt::format("{} ranks\n{}", cell.ranks, to_ini(shape));
    auto found = plans.find(key);
    if (found == plans.end())
      found = plans
                  .emplace(key, plan_memory(shape, {.ranks = cell.ranks,
                                                    .threads = threads,
                                                    .backend = planned_backend(shape.run)}))
                  .first;
    const MemoryPlan& plan = found->second;
    CellCost cost{.total_parameters = plan.total_parameters,
                  .active_parameters = plan.active_parameters,
                  .tokens = (cell.config.train.steps - cell.fork) * cell.config.train.global_batch *
                            cell.config.model.context,
                  .memory = plan.rank_total()};
    cost.flops = training_flops_per_token(cell.config.model) * static_cast<double>(cost.tokens);
    if (study.flops_per_second > 0.0) cost.seconds = cost.flops / study.flops_per_second;
    costs.push_back(cost);
  }
  return costs;
}

double measured_flops_per_second(const std::filesystem::path& bench_json) {
  constexpr std::int64_t most_bytes = 16 << 20;
  const std::string name = bench_json.string();
  try {
    const Json json = parse_json(read_file(bench_json, most_bytes), name);
    const double tokens = json.at("step").at("tokens_per_second").as_number();
    const Config config = parse_config(json.at("config").as_string(), name, {});
    return tokens * training_flops_per_token(config.model);
  } catch (const InvalidArgument& error) {
    throw InputFileError(
        name, fmt::format("not what `polymoe bench --json` writes with a step: {}", error.what()));
  }
}

std::vector<std::string> budget_violations(const Study& study, const std::vector<CellCost>& costs) {
  const Totals totals = totals_of(costs);
  std::vector<std::string> lines;
  const auto check = [&](const char* key, const std::optional<double>& bound, double value,
                         const char* unit) {
    if (bound && value > *bound)
      lines.push_back(
          fmt::format("budget.{} = {:.4g}: the study takes {:.4g} {}", key, *bound, value, unit));
  };
  check("flops", study.budget.flops, totals.flops, "FLOP");
  check("tokens", study.budget.tokens, totals.tokens, "tokens");
  check("memory", study.budget.memory, totals.memory, "bytes on a rank of its largest cell");
  check("hours", study.budget.hours, totals.seconds / 3600.0, "hours");
  if (study.budget.hours && study.flops_per_second <= 0.0)
    lines.push_back(
        fmt::format("budget.hours = {:.4g}: needs the machine's speed: --rates FILE "
                    "or study.flops_per_second",
                    *study.budget.hours));
  return lines;
}

std::string cost_table(const Study& study, const std::vector<CellCost>& costs) {
  std::size_t width = 4;
  for (const Cell& cell : study.cells) width = std::max(width, cell.name.size());
  std::string text =
      fmt::format("{:<{}}  {:>5} {:>14} {:>14} {:>14} {:>10} {:>9} {:>10}\n", "cell", width,
                  "ranks", "parameters", "active", "tokens", "FLOP", "MiB", "time");
  for (std::size_t i = 0; i < costs.size(); ++i) {
    const CellCost& cost = costs[i];
    text += fmt::format(
        "{:<{}}  {:>5} {:>14} {:>14} {:>14} {:>10.3g} {:>9.1f} {:>10}\n", study.cells[i].name,
        width, study.cells[i].ranks, with_separators(cost.total_parameters),
        with_separators(cost.active_parameters), with_separators(cost.tokens), cost.flops,
        static_cast<double>(cost.memory) / mebi, time_text(cost.seconds));
  }
  const Totals totals = totals_of(costs);
  text += fmt::format("\n{} cells: {} tokens, {:.4g} FLOP, at most {:.1f} MiB on a rank, time {}\n",
                      costs.size(), with_separators(static_cast<std::int64_t>(totals.tokens)),
                      totals.flops, totals.memory / mebi, time_text(totals.seconds));
  if (study.flops_per_second <= 0.0)
    text +=
        "time: give the machine's speed by --rates FILE (of `polymoe bench --json`) or "
        "study.flops_per_second\n";
  const auto share = [&](const char* key, const std::optional<double>& bound, double value) {
    if (bound) text += fmt::format("budget.{:<7} {:>6.1f} % used\n", key, 100.0 * value / *bound);
  };
  share("flops", study.budget.flops, totals.flops);
  share("tokens", study.budget.tokens, totals.tokens);
  share("memory", study.budget.memory, totals.memory);
  if (totals.seconds > 0.0) share("hours", study.budget.hours, totals.seconds / 3600.0);
  return text;
}

}  // namespace polymoe
