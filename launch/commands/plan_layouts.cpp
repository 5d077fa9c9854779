// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/plan_layouts.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/layouts/layout_search.h"
#include "launch/layouts/measured_step.h"
#include "launch/layouts/step_model.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/machine_rates.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr int gpus_of_node = 8;  // where nobody says otherwise

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  if (parts.empty() || text.ends_with(',')) parts.emplace_back();
  return parts;
}

int count_of(const std::string& option, const std::string& text) {
  constexpr std::int64_t most_ranks = 1 << 20;
  const auto count = parse_count(text);
  if (!count || *count < 1 || *count > most_ranks)
    throw InvalidArgument(
        fmt::format("--{} {}: must be a whole number in [1, {}]", option, text, most_ranks));
  return static_cast<int>(*count);
}

/// "25,5": GB/s that a rank sends, and microseconds of a message.
LinkRates link_of(const CommandLine& line) {
  if (!line.has("link")) return {};
  constexpr double giga = 1e9, micro = 1e-6;
  const std::string text = line.value("link");
  const std::vector<std::string> parts = split_commas(text);
  const auto bandwidth = parts.size() == 2 ? parse_real(parts[0]) : std::nullopt;
  const auto latency = parts.size() == 2 ? parse_real(parts[1]) : std::nullopt;
  if (!bandwidth || !latency || *bandwidth <= 0.0 || *latency <= 0.0)
    throw InvalidArgument("--link " + text +
                          ": must be two numbers > 0: GB/s of a rank, microseconds of a message");
  const double bytes = *bandwidth * giga;
  return {.all_to_all = bytes,
          .reduce_scatter = bytes,
          .all_gather = bytes,
          .latency = *latency * micro};
}

/// Keys that the command line gives, of those that layouts vary.
std::vector<std::string> fixed_keys(const CommandLine& line) {
  std::vector<std::string> fixed;
  for (const std::string& key : layout_keys())
    for (const std::string& given : line.overrides())
      if (given.starts_with("--" + key + "=")) fixed.push_back(key);
  return fixed;
}

/// The run's configuration, on the kind of device that was measured.
Config config_of(const CommandLine& line, const StepModel& model) {
  Config config = read_config(line.value("config"), line.overrides());
  const std::string measured = model.on_gpu() ? "cuda" : "cpu";
  if (config.run.device == "auto") config.run.device = measured;
  if (config.run.device != measured)
    throw InvalidArgument(fmt::format("run.device = {}: the rates are of a {}", config.run.device,
                                      model.on_gpu() ? "GPU (cuda)" : "CPU"));
  return config;
}

std::size_t memory_of_rank(const CommandLine& line, const StepModel& model,
                           const LayoutSearch& search) {
  constexpr double gibi = 1024.0 * 1024.0 * 1024.0;
  if (line.has("memory")) {
    const auto memory = parse_real(line.value("memory"));
    if (!memory || *memory <= 0.0)
      throw InvalidArgument("--memory " + line.value("memory") + ": must be a number > 0, of GiB");
    return static_cast<std::size_t>(*memory * gibi);
  }
  const MeasuredStep& measured = model.nearest(search.ranks);
  if (model.on_gpu()) return measured.memory;
  return measured.memory * static_cast<std::size_t>(measured.ranks) /
         static_cast<std::size_t>(std::min(search.ranks, search.ranks_per_node));
}

std::string quoted(const std::string& word) {
  if (word.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:=+-/") ==
      std::string::npos)
    return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string job_script(const CommandLine& line, const RankedLayout& best, bool slurm) {
  const EstimatedLayout& layout = best.layout;
  const int nodes = (layout.ranks + layout.ranks_per_node - 1) / layout.ranks_per_node;
  const int on_node = std::min(layout.ranks, layout.ranks_per_node);
  if (!slurm && nodes > 1)
    throw InvalidArgument(
        fmt::format("--emit mpirun: launch/mpirun/run starts ranks on one node, {} ranks are on "
                    "{}: --emit slurm",
                    layout.ranks, nodes));
  if (layout.ranks % on_node != 0)
    throw InvalidArgument(fmt::format("--ranks-per-node {}: must divide the {} ranks of the job",
                                      layout.ranks_per_node, layout.ranks));
  std::vector<std::string> words = {"--config", line.value("config")};
  for (const std::string& given : line.overrides()) {
    const std::string key = given.substr(2, given.find('=') - 2);
    if (std::find(layout_keys().begin(), layout_keys().end(), key) == layout_keys().end())
      words.push_back(given);
  }
  for (const std::string& chosen : layout_overrides(layout)) words.push_back(chosen);
  std::string arguments;
  for (const std::string& word : words) arguments += " " + quoted(word);
  std::string text = fmt::format(
      "#!/usr/bin/env bash\n# By `polymoe plan`: {:.4g} s a step, {} tokens/s, {:.2f} GiB of a "
      "rank.\n",
      best.step.total(), with_separators(static_cast<std::int64_t>(best.tokens_per_second())),
      static_cast<double>(best.memory()) / (1024.0 * 1024.0 * 1024.0));
  for (const std::string& reason : best.extrapolations) text += "# Extrapolated: " + reason + ".\n";
  text +=
      "# From the repository's root; run.dir and data.train are to be added where the\n"
      "# configuration has none.\n";
  if (!slurm)
    return text + fmt::format(
                      "exec launch/mpirun/run {} \"${{POLYMOE_PROGRAM:-build/release/polymoe}}\" "
                      "train{} \"$@\"\n",
                      layout.ranks, arguments);
  text += fmt::format("exec sbatch --nodes={} --ntasks-per-node={}", nodes, on_node);
  if (layout.config.run.device == "cuda") text += fmt::format(" --gpus-per-node={}", on_node);
  return text + " \\\n  launch/slurm/train.sbatch" + arguments + " \"$@\"\n";
}

}  // namespace

int run_plan_layouts(const CommandLine& line) {
  std::vector<MeasuredStep> measured;
  for (const std::string& file : line.values("rates")) measured.push_back(read_measured_step(file));
  const StepModel model(std::move(measured), link_of(line));
  std::vector<int> ranks;
  for (const std::string& one : split_commas(line.value("ranks", "1")))
    ranks.push_back(count_of("ranks", one));
  const std::string emit = line.value("emit");
  if (line.has("emit") && emit != "slurm" && emit != "mpirun")
    throw InvalidArgument("--emit " + emit + ": must be slurm or mpirun");
  if (line.has("emit") && (ranks.size() != 1 || !line.has("config")))
    throw InvalidArgument("--emit: needs one number of --ranks, and --config");
  std::vector<RankedLayout> all;
  for (const int count : ranks) {
    LayoutSearch search{
        .config = config_of(line, model), .fixed = fixed_keys(line), .ranks = count};
    search.ranks_per_node = line.has("ranks-per-node")
                                ? count_of("ranks-per-node", line.value("ranks-per-node"))
                                : (model.on_gpu() ? gpus_of_node : count);
    search.memory = memory_of_rank(line, model, search);
    const std::vector<RankedLayout> found = search_layouts(model, search);
    constexpr std::size_t shown = 12;
    if (line.has("emit")) {
      std::cout << job_script(line, found.front(), emit == "slurm");
    } else if (!line.has("json")) {
      std::cout << (all.empty() ? "" : "\n") << layout_table(found, shown) << std::flush;
    }
    all.insert(all.end(), found.begin(), found.end());
  }
  if (line.has("json")) std::cout << layouts_json(all).dump_indented();
  return exit_done;
}

void check_plan_without_rates(const CommandLine& line) {
  for (const char* option : {"link", "ranks-per-node", "emit"})
    if (line.has(option))
      throw InvalidArgument(
          fmt::format("--{}: needs --rates FILE, of `polymoe bench --json`", option));
}

}  // namespace polymoe
