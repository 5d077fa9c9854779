// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "launch/commands/command.h"
#include "launch/config/values.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/exit_code.h"
#include "launch/step/memory_plan.h"
#include "moe/language_model.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

std::string as_text(const Config& config, const MemoryPlan& plan, const PlannedLayout& layout) {
  const auto count = [](std::int64_t value) { return with_separators(value); };
  const auto line = [](const char* name, std::size_t bytes) {
    return fmt::format("  {:<12}{:>20} bytes  {:>9.3f} GiB\n", name,
                       with_separators(static_cast<std::int64_t>(bytes)),
                       static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0));
  };
  const bool on_gpu = layout.backend == DeviceType::cuda;
  std::string text =
      fmt::format("parameters  total {}  active {}\n", count(plan.total_parameters),
                  count(plan.active_parameters)) +
      fmt::format("per token   {:.4g} GFLOP, forward and backward\n",
                  LanguageModel::training_flops_per_token(config.model) / 1e9) +
      fmt::format("ranks       {}, expert parallelism {}, {}\n", layout.ranks,
                  config.parallel.expert,
                  on_gpu ? "a GPU each" : fmt::format("{} threads each", layout.threads)) +
      fmt::format("pass        {} x {} tokens a rank; {} sequences a step\n\n",
                  config.train.micro_batch, config.model.context, config.train.global_batch) +
      (on_gpu ? "memory of a rank's GPU\n" : "memory per rank\n");
  text += line("parameters", plan.parameters);
  text += line("gradients", plan.gradients);
  text += line("optimizer", plan.optimizer);
  text += line("activations", plan.activations);
  text += line("buffers", plan.buffers);
  if (on_gpu) {
    text += line("total", plan.device_total());
    if (plan.staging > 0) text += "host memory per rank\n" + line("staging", plan.staging);
    return text;
  }
  if (plan.staging > 0) text += line("staging", plan.staging);
  text += line("total", plan.rank_total());
  return text;
}

std::string as_json(const Config& config, const MemoryPlan& plan, int ranks) {
  const Json bytes = std::move(Json::object()
                                   .set("parameters", plan.parameters)
                                   .set("gradients", plan.gradients)
                                   .set("optimizer", plan.optimizer)
                                   .set("activations", plan.activations)
                                   .set("buffers", plan.buffers)
                                   .set("staging", plan.staging)
                                   .set("total", plan.rank_total()));
  Json json = Json::object();
  json.set("total_parameters", plan.total_parameters)
      .set("active_parameters", plan.active_parameters)
      .set("ranks", ranks)
      .set("expert_parallel", config.parallel.expert)
      .set("training_flops_per_token", LanguageModel::training_flops_per_token(config.model))
      .set("bytes_per_rank", bytes);
  return json.dump_indented();
}

int run_plan(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = plan_command().parse(args);
  const Config config = read_config(line.value("config"), line.overrides());
  constexpr std::int64_t most_ranks = 1 << 20;
  const auto ranks = parse_count(line.value("ranks", std::to_string(config.parallel.expert)));
  if (!ranks || *ranks < 1 || *ranks > most_ranks)
    throw InvalidArgument("--ranks " + line.value("ranks") + ": must be a whole number in [1, " +
                          std::to_string(most_ranks) + "]");
  const int threads = config.run.threads > 0
                          ? config.run.threads
                          : static_cast<int>(std::max<std::int64_t>(usable_cores() / *ranks, 1));
  const DeviceType backend = planned_backend(config.run);
  const MemoryPlan plan = plan_memory(
      config, {.ranks = static_cast<int>(*ranks), .threads = threads, .backend = backend});
  std::cout << (line.has("json") ? as_json(config, plan, static_cast<int>(*ranks))
                                 : as_text(config, plan,
                                           {.ranks = static_cast<int>(*ranks),
                                            .threads = threads,
                                            .backend = backend}));
  return exit_done;
}

}  // namespace

const Command& plan_command() {
  static const Command command = {
      .name = "plan",
      .summary = "Prints parameter counts and the memory of each rank, without allocating it",
      .arguments = "",
      .options = {{"config", "FILE", "the configuration; without one, defaults"},
                  {"ranks", "N", "of the planned run; default parallel.expert"},
                  {"json", "", "as JSON"}},
      .overrides = true,
      .ranks = false,
      .run = run_plan};
  return command;
}

}  // namespace polymoe
