// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/bench/kernel_cases.h"
#include "launch/bench/model_bench.h"
#include "launch/bench/report.h"
#include "launch/bench/timing.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/expert_nodes.h"
#include "launch/machine/machine_rates.h"
#include "launch/machine/node_threads.h"
#include "launch/step/arena_size.h"
#include "launch/step/memory_plan.h"
#include "launch/step/micro_batch.h"
#include "moe/measured_routing.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "runtime/files/named_output.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

/// What to run.
struct Selection {
  std::string filter = {};
  std::int64_t document_tokens = 0;  // of each document, where the step keeps to documents
  bool step = false, generation = false;
  std::vector<KernelCase> kernels = {};

  bool takes(const std::string& name) const { return name.find(filter) != std::string::npos; }
};

Selection select(const std::string& filter, const Config& config, const PlannedLayout& layout) {
  Selection selection{.filter = filter};
  std::vector<KernelCase> kernels = kernel_cases(config, layout);
  std::string names = "step, generation";
  for (const KernelCase& kernel : kernels) names += ", " + kernel.name;
  selection.step = selection.takes("step");
  selection.generation = selection.takes("generation");
  std::erase_if(kernels, [&](const KernelCase& kernel) { return !selection.takes(kernel.name); });
  selection.kernels = std::move(kernels);
  if (!selection.step && !selection.generation && selection.kernels.empty())
    throw InvalidArgument("--filter " + filter +
                          ": must be a part of one of these names: " + names);
  return selection;
}

/// The system ends a process that takes more memory than there is without a word.
void check_memory(const MemoryPlan& plan, int ranks_on_node) {
  constexpr double gibi = 1024.0 * 1024.0 * 1024.0;
  const double needed = static_cast<double>(plan.rank_total()) * ranks_on_node;
  const auto usable = static_cast<double>(usable_memory_bytes());
  if (needed > usable)
    throw InvalidArgument(
        fmt::format("configuration: a step needs {:.1f} GiB on this machine of {:.1f} GiB; with "
                    "--filter NAME single kernels can be measured",
                    needed / gibi, usable / gibi));
}

/// One that keeps the device busy.
SquareProduct rated_product(const Config& config, Device device) {
  return {.extent = device.type == DeviceType::cuda ? 8192 : 2048,
          .dtype = compute_dtype(config.train.precision, device.type)};
}

/// Large enough that bandwidth decides.
std::int64_t message_bytes(Device device) {
  return std::int64_t{device.type == DeviceType::cuda ? 256 : 16} << 20;
}

MachineRates measure_machine(Communicator& world, const SquareProduct& product,
                             ExecutionContext& context) {
  const Device device = context.stream.device();
  const std::int64_t memory = std::int64_t{device.type == DeviceType::cuda ? 1024 : 256} << 20;
  const std::int64_t message = message_bytes(device);
  return {.copy = measure_copy_bandwidth(world, memory, context),
          .read = measure_read_bandwidth(world, memory, context),
          .product = measure_product_rate(world, product, context),
          .all_to_all = measure_all_to_all_bandwidth(world, message, context)};
}

/// Shows each line as soon as it is there.
BenchReport measure(const Config& config, const Selection& selection, const MemoryPlan& plan,
                    std::size_t memory, const ProcessMesh& mesh, Device device) {
  Communicator& world = mesh.world();
  const bool with_model = selection.step || selection.generation;
  Execution execution(
      {.device = device, .capacity = bench_arena_bytes(plan, with_model, world, device)});
  ExecutionContext& context = execution.context();
  BenchReport report{.plan = plan};
  report.setting = {.ranks = world.size(),
                    .threads_per_rank = omp_get_max_threads(),
                    .device = device.type == DeviceType::cuda ? cuda::describe_device(device.index)
                                                              : std::string(),
                    .product = rated_product(config, device),
                    .memory = memory};
  const auto show = [&](const std::string& text) {
    if (world.rank() == 0) std::cout << text << std::flush;
  };
  const auto add = [&](const BenchResult& result) {
    report.results.push_back(result);
    show(bench_line(result, report.setting));
  };

  // The step's memory is the process's as long as nothing else has taken any.
  std::unique_ptr<ModelBench> model;
  if (with_model)
    model = std::make_unique<ModelBench>(config, selection.document_tokens, mesh, plan, context);
  if (selection.step) model->measure_memory(context);  // a large global batch takes minutes
  report.setting.rates = measure_machine(world, report.setting.product, context);
  // For `plan --rates`; smaller, as buckets of gradients are.
  if (selection.step) report.setting.link = measure_link(world, message_bytes(device) / 4, context);
  show(bench_head(report.setting));
  for (const KernelCase& kernel : selection.kernels) {
    const Arena::Scope scope(context.arena);
    const std::function<void()> run = kernel.prepare(context);
    add({.name = kernel.name,
         .shape = kernel.shape,
         .floor = kernel.floor,
         .timing = time_runs(world, run, {}, context.stream)});
  }
  if (selection.generation) {
    for (const std::int64_t texts : {std::int64_t{1}, usual_batch})
      add(model->time_generation(texts, context));
  }
  if (selection.step) {
    add(model->time_steps(context));
    report.step = model->details();
    show(step_text(*report.step, plan));
  }
  return report;
}

Routing routing_of(const std::string& text) {
  if (text == "untrained") return Routing::router;
  if (text == "balanced") return Routing::balanced;
  if (text == "skewed") return Routing::skewed;
  throw InvalidArgument("--routing = " + text + ": must be untrained, balanced or skewed");
}

/// 512 where nothing is said, or the context where that is less.
std::int64_t document_tokens_of(const CommandLine& line, const Config& config) {
  const std::int64_t most = config.model.context;
  if (!line.has("document-tokens")) return std::min<std::int64_t>(512, most);
  if (!config.data.keeps_documents())
    throw InvalidArgument(
        "--document-tokens: without data.documents = mask a step has no documents");
  const std::string text = line.value("document-tokens");
  const auto tokens = parse_count(text);
  if (!tokens || *tokens < 1 || *tokens > most)
    throw InvalidArgument(fmt::format(
        "--document-tokens = {}: must be a whole number in [1, model.context = {}]", text, most));
  return *tokens;
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = bench_command().parse(args);
  Config config = read_config(line.value("config"), line.overrides());
  config.checkpoint.every = 0;  // none is written here, and none takes memory
  if (line.has("routing")) config.model.moe.routing = routing_of(line.value("routing"));
  if (line.has("routing") && config.model.moe.experts == 0)
    throw InvalidArgument("--routing: the model has no experts (moe.experts = 0)");
  const NodeRank node{.rank = context.rank_on_node, .ranks = context.ranks_on_node};
  const Device device = choose_device(config.run, node);
  const int threads =
      config.run.threads > 0 ? config.run.threads : threads_per_rank(*context.world);
  omp_set_num_threads(allowed_threads(threads));
  const PlannedLayout layout{.ranks = context.ranks,
                             .threads = threads,
                             .backend = device.type,
                             .node_ranks = node_ranks_of(config.parallel, *context.world)};
  // All ranks choose alike, by the one that has least.
  const int sharers =
      device.type == DeviceType::cuda ? device_sharers(device, node) : context.ranks_on_node;
  const auto memory = static_cast<std::size_t>(
      least_of_ranks(static_cast<std::int64_t>(memory_of_rank(device, sharers)), *context.world));
  choose_micro_batch(config, layout, memory);
  const MemoryPlan plan = plan_memory(config, layout);
  Selection selection = select(line.value("filter"), config, layout);
  selection.document_tokens = document_tokens_of(line, config);
  if (device.type == DeviceType::cpu && (selection.step || selection.generation))
    check_memory(plan, context.ranks_on_node);
  const std::string path = line.value("json");
  if (line.has("json"))
    on_first_rank(*context.world, [&] {  // better now than later
      refuse_to_replace({{"--json", path}}, {{"--config", line.value("config")}});
      check_named_output(path);
    });

  serve_device(context, device, config.run.share_gpus);
  ProcessMesh mesh(std::move(context.world), config.parallel.expert, layout.node_ranks);
  const BenchReport report = measure(config, selection, plan, memory, mesh, device);
  if (line.has("json"))
    on_first_rank(mesh.world(),
                  [&] { write_named_output(path, bench_json(report, config).dump_indented()); });
  mesh.shutdown();
  return exit_done;
}

}  // namespace

const Command& bench_command() {
  static const Command command = {
      .name = "bench",
      .summary = "Measures the machine, then the kernels and the training step against it",
      .arguments = "",
      .options = {{.name = "config",
                   .value = "FILE",
                   .help = "the model and its batch; without one, defaults"},
                  {.name = "filter",
                   .value = "NAME",
                   .help = "only what has NAME in its name: a kernel, `generation`, `step`"},
                  {.name = "json", .value = "FILE", .help = "writes the figures there as well"},
                  {.name = "routing",
                   .value = "HOW",
                   .help = "which experts tokens have: `untrained`, what the router's initial "
                           "weights say; `balanced`, at random but each expert as often, what a "
                           "well trained router comes near to; `skewed`, at random, the n-th "
                           "expert 1 / sqrt(n) as often"},
                  {.name = "document-tokens",
                   .value = "N",
                   .help = "length of the step's documents where data.documents = mask; default: "
                           "512, or model.context where that is less"}},
      .overrides = true,
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
