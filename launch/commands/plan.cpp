// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/commands/plan_layouts.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/config/values.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/exit_code.h"
#include "launch/step/memory_plan.h"
#include "launch/step/micro_batch.h"
#include "moe/model_size.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

constexpr double gibi = 1024.0 * 1024.0 * 1024.0;
constexpr double absent_gpu_gibi = 80.0;  // what is taken for a GPU's memory where none is here

/// A configuration with what was found for it.
struct Planned {
  Config config;
  PlannedLayout layout;
  std::size_t memory = 0;  // of a rank
  MemoryPlan plan = {};

  bool on_gpu() const { return layout.backend == DeviceType::cuda; }
  bool exchanges() const { return config.model.moe.experts > 0 && config.parallel.expert > 1; }
  std::size_t total() const { return on_gpu() ? plan.device_total() : plan.rank_total(); }
};

/// "8 x 256 tokens a rank (automatic), 1 pass a step of 16 sequences".
std::string pass_text(const Config& config, int ranks) {
  const StepShares shares = shares_of(config, ranks);
  const std::int64_t least = shares.of(shares.passes - 1, ranks - 1).count;
  return fmt::format("{}{} x {} tokens a rank{}, {} {} a step of {} sequences",
                     shares.even() ? "" : fmt::format("{} or ", least), shares.largest(),
                     config.model.context, config.train.micro_batch == 0 ? " (automatic)" : "",
                     shares.passes, shares.passes == 1 ? "pass" : "passes", shares.global_batch);
}

std::string widths_text(const ModelConfig& model) {
  std::string text = std::string(name_of(model.activation.kind));
  bool dense = false;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) dense |= !model.is_moe_layer(layer);
  if (dense) text += fmt::format(", feed-forward {}", model.dense_width());
  if (model.moe.experts > 0)
    text += fmt::format(", {} experts of {}, {} a token", model.moe.experts, model.expert_width(),
                        model.moe.top_k);
  return text;
}

std::string layout_text(const Planned& planned) {
  const PlannedLayout& layout = planned.layout;
  return fmt::format("{} {}, expert parallelism {}, {}", layout.ranks,
                     layout.ranks == 1 ? "rank" : "ranks", planned.config.parallel.expert,
                     planned.on_gpu() ? "a GPU each"
                                      : fmt::format("{} {} each", layout.threads,
                                                    layout.threads == 1 ? "thread" : "threads"));
}

std::string routing_text(const Planned& planned) {
  if (!planned.exchanges()) return "any: no rank's rows depend on it";
  return fmt::format(
      "any: rows beyond {} times an even share are worked off in rounds; --moe.row_budget=N plans "
      "for a skew of N at once",
      shortest(planned.config.model.moe.row_budget));
}

/// One row of bytes for each plan.
std::string bytes_line(const char* name, const std::vector<std::size_t>& bytes) {
  std::string line = fmt::format("  {:<12}", name);
  for (const std::size_t value : bytes)
    line +=
        fmt::format("{:>20} bytes  {:>9.3f} GiB", with_separators(static_cast<std::int64_t>(value)),
                    static_cast<double>(value) / gibi);
  return line + "\n";
}

std::string as_text(const Planned& planned) {
  const MemoryPlan& plan = planned.plan;
  const Config& config = planned.config;
  std::string text =
      fmt::format("model       {}\n", widths_text(config.model)) +
      fmt::format("parameters  total {}  active {}\n", with_separators(plan.total_parameters),
                  with_separators(plan.active_parameters)) +
      fmt::format("per token   {:.4g} GFLOP, forward and backward\n",
                  training_flops_per_token(config.model) / 1e9) +
      fmt::format("layout      {}\n", layout_text(planned)) +
      fmt::format("pass        {}\n", pass_text(config, planned.layout.ranks)) +
      fmt::format("routing     {}\n\n", routing_text(planned)) +
      (planned.on_gpu() ? "memory of a rank's GPU\n" : "memory per rank\n");
  text += bytes_line("parameters", {plan.parameters});
  text += bytes_line("gradients", {plan.gradients});
  text += bytes_line("optimizer", {plan.optimizer});
  text += bytes_line("activations", {plan.activations});
  text += bytes_line("buffers", {plan.buffers});
  if (!planned.on_gpu() && plan.staging > 0) text += bytes_line("staging", {plan.staging});
  text += bytes_line("total", {planned.total()});
  text += bytes_line(planned.total() <= planned.memory ? "of" : "TOO MUCH for", {planned.memory});
  if (planned.on_gpu() && plan.staging > 0)
    text += "host memory per rank\n" + bytes_line("staging", {plan.staging});
  return text;
}

/// The two side by side, with what differs.
std::string as_text(const Planned& here, const Planned& there) {
  const auto row = [](const char* name, const std::string& a, const std::string& b) {
    return fmt::format("{:<14}{:>32}  {:>32}\n", name, a, b);
  };
  const auto count = [](std::int64_t value) { return with_separators(value); };
  const auto gib = [](std::size_t bytes) {
    return fmt::format("{:.3f} GiB", static_cast<double>(bytes) / gibi);
  };
  const auto share = [](double a, double b) { return fmt::format("{:.4f} of the first", b / a); };
  std::string text;
  for (const Planned* planned : {&here, &there})
    text += fmt::format("{} {}\n", planned == &here ? "first " : "second",
                        widths_text(planned->config.model));
  text += "\n" + row("", "first", "second");
  text += row("parameters", count(here.plan.total_parameters), count(there.plan.total_parameters));
  text += row("  ", "",
              share(static_cast<double>(here.plan.total_parameters),
                    static_cast<double>(there.plan.total_parameters)));
  text += row("active", count(here.plan.active_parameters), count(there.plan.active_parameters));
  const double here_flops = training_flops_per_token(here.config.model);
  const double there_flops = training_flops_per_token(there.config.model);
  text += row("GFLOP a token", fmt::format("{:.4g}", here_flops / 1e9),
              fmt::format("{:.4g}", there_flops / 1e9));
  text += row("memory a rank", gib(here.total()), gib(there.total()));
  text += row("  activations", gib(here.plan.activations), gib(there.plan.activations));
  return text;
}

Json as_json(const Planned& planned) {
  const MemoryPlan& plan = planned.plan;
  const Config& config = planned.config;
  const StepShares shares = shares_of(config, planned.layout.ranks);
  Json bytes = Json::object();
  bytes.set("parameters", plan.parameters)
      .set("gradients", plan.gradients)
      .set("optimizer", plan.optimizer)
      .set("activations", plan.activations)
      .set("buffers", plan.buffers);
  if (!planned.on_gpu()) bytes.set("staging", plan.staging);
  bytes.set("total", planned.total());
  Json json = Json::object();
  json.set("total_parameters", plan.total_parameters)
      .set("active_parameters", plan.active_parameters)
      .set("device", planned.on_gpu() ? "cuda" : "cpu")
      .set("ranks", planned.layout.ranks)
      .set("expert_parallel", config.parallel.expert)
      .set("row_budget", planned.config.model.moe.row_budget)
      .set("micro_batch", shares.largest())
      .set("micro_batches_per_step", shares.passes)
      .set("training_flops_per_token", training_flops_per_token(config.model))
      .set("bytes_per_rank", std::move(bytes))
      .set("memory_per_rank", planned.memory);
  // Beside the GPU's memory, of which the total above is.
  if (planned.on_gpu())
    json.set("host_bytes_per_rank", std::move(Json::object().set("staging", plan.staging)));
  return json;
}

std::size_t default_memory(const PlannedLayout& layout) {
  if (layout.backend == DeviceType::cuda) {
    if (cuda::device_count() > 0) return memory_of_rank(Device::cuda(0), 1);
    return static_cast<std::size_t>(absent_gpu_gibi * gibi);
  }
  return memory_of_rank(Device::cpu(), layout.ranks);
}

Planned planned(const CommandLine& line, const std::string& path,
                const std::vector<std::string>& overrides) {
  Config config = read_config(path, overrides);
  constexpr std::int64_t most_ranks = 1 << 20;
  const auto ranks = parse_count(line.value("ranks", std::to_string(config.parallel.expert)));
  if (!ranks || *ranks < 1 || *ranks > most_ranks)
    throw InvalidArgument("--ranks " + line.value("ranks") + ": must be a whole number in [1, " +
                          std::to_string(most_ranks) + "]; several, as in 1,8,64, with --rates");
  const auto memory = parse_real(line.value("memory", "1"));
  if (!memory || *memory <= 0.0)
    throw InvalidArgument("--memory " + line.value("memory") + ": must be a number > 0, of GiB");
  const PlannedLayout layout{
      .ranks = static_cast<int>(*ranks),
      .threads = config.run.threads > 0
                     ? config.run.threads
                     : static_cast<int>(std::max<std::int64_t>(usable_cores() / *ranks, 1)),
      .backend = planned_backend(config.run),
      .node_ranks = std::max(config.parallel.expert_node, 1)};
  const std::size_t available =
      line.has("memory") ? static_cast<std::size_t>(*memory * gibi) : default_memory(layout);
  choose_micro_batch(config, layout, available);
  Planned result{.config = config, .layout = layout, .memory = available};
  result.plan = plan_memory(config, layout);
  return result;
}

int run_plan(CommandContext&, const std::vector<std::string>& args) {
  // What stands behind --against changes the second plan alone.
  const auto against = std::find(args.begin(), args.end(), "--against");
  const CommandLine line = plan_command().parse({args.begin(), against});
  if (line.has("rates")) {
    if (against != args.end())
      throw InvalidArgument("--against: has no meaning with --rates, which compares layouts");
    return run_plan_layouts(line);
  }
  check_plan_without_rates(line);
  const Planned here = planned(line, line.value("config"), line.overrides());
  if (against == args.end()) {
    std::cout << (line.has("json") ? as_json(here).dump_indented() : as_text(here));
    return exit_done;
  }
  const CommandLine changes = plan_command().parse({against + 1, args.end()});
  std::vector<std::string> overrides = changes.overrides();
  for (const std::string& given : line.overrides()) {
    const std::string key = given.substr(0, given.find('=') + 1);
    if (std::none_of(overrides.begin(), overrides.end(),
                     [&](const std::string& changed) { return changed.starts_with(key); }))
      overrides.push_back(given);
  }
  const Planned there = planned(line, changes.value("config", line.value("config")), overrides);
  if (line.has("json") || changes.has("json")) {
    std::cout
        << Json::object().set("first", as_json(here)).set("second", as_json(there)).dump_indented();
  } else {
    std::cout << as_text(here, there);
  }
  return exit_done;
}

}  // namespace

const Command& plan_command() {
  static const Command command = {
      .name = "plan",
      .summary =
          "Prints parameter counts and the memory of each rank, without allocating it; with "
          "measured rates, the time of every layout that fits",
      .arguments = "",
      .options =
          {{"config", "FILE", "the configuration; without one, defaults"},
           {"ranks", "N",
            "of the planned run; default parallel.expert; with --rates several, 1,8,64"},
           {"memory", "GIB",
            "of a rank, for train.micro_batch = 0; default that of this machine, 80 for a "
            "GPU where none is here"},
           {"against", "",
            "a second plan beside the first: the same with the keys and the --config that "
            "follow, e.g. --against --model.activation=swiglu"},
           {"rates", "FILE...",
            "of `polymoe bench --filter step --json FILE`, on one rank and on several: ranks "
            "layouts (parallel.expert, train.micro_batch, train.recompute, "
            "optimizer.moment_dtype, as far as they are not given) by the time of a step"},
           {"link", "GBS,US",
            "with --rates: what a rank sends between nodes in GB/s, microseconds of a "
            "message; default as the rates have it within a node"},
           {"ranks-per-node", "N", "with --rates; default 8 with GPUs, all with CPUs"},
           {"emit", "HOW",
            "with --rates: the job script of the fastest layout instead, for slurm or "
            "mpirun"},
           {"json", "", "as JSON"}},
      .overrides = true,
      .ranks = false,
      .run = run_plan};
  return command;
}

}  // namespace polymoe
