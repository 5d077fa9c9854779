// SPDX-License-Identifier: Apache-2.0
#include "launch/step/memory_plan.h"

#include <fmt/core.h>
#include <omp.h>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/machine/device_choice.h"
#include "launch/step/pass_limits.h"
#include "launch/step/token_batch.h"
#include "launch/step/training_model.h"
#include "moe/decoding_cache.h"
#include "moe/language_model.h"
#include "moe/model_size.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/collectives.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "runtime/rounding.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

// What libraries take of a GPU beside the arena: cuBLASLt's workspaces, and while it chooses an
// algorithm two results; NCCL's buffers; what the driver loads with each kernel.
constexpr std::size_t gpu_reserve = std::size_t{3} << 30;

/// The number of OpenMP threads within a block.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : outer_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~ThreadCount() { omp_set_num_threads(outer_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int outer_;
};

void measure_losses(LanguageModel& model, const Config& config, std::int64_t sequences,
                    ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  model.token_losses(make_batch({.sequences = sequences,
                                 .length = config.model.context,
                                 .documents = config.data.keeps_documents()},
                                {}, context),
                     context);
}

void measure_shared_losses(LanguageModel& model, const PassLimits& limits,
                           ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  const auto ids = [&](std::int64_t count) { return context.arena.allocate({count}, DType::i32); };
  // More than one sequence, whose attention may take a workspace.
  const std::int64_t length = divide_up(limits.places, 2);
  model.shared_token_losses({.rows = {.groups = {{.sequences = 2, .length = length}},
                                      .row_of = ids(2 * length),
                                      .query_of = ids(2 * length),
                                      .place_of = ids(limits.tokens),
                                      .starts = ids(limits.tokens)},
                             .tokens = ids(limits.tokens),
                             .predicting = ids(limits.tokens),
                             .targets = ids(limits.tokens)},
                            context);
}

/// The passes of continue_all at their largest: every sequence of a rank, of which one begins with
/// as many tokens as a pass holds.
void measure_generation(LanguageModel& model, const InferencePasses& passes, DType dtype,
                        ExecutionContext& context) {
  const std::int64_t tokens = passes.limits.tokens, batch = passes.batch;
  const Arena::Scope scope(context.arena);
  std::vector<DecodingCache> caches;
  for (std::int64_t i = 0; i < batch; ++i)
    caches.emplace_back(model.config(), tokens, dtype, context.stream.device());
  std::vector<Continuation> sequences;
  for (DecodingCache& cache : caches) sequences.push_back({.cache = &cache});
  const auto run = [&](std::int64_t rows) {
    const Arena::Scope pass(context.arena);
    model.next_token_logits(context.arena.allocate({rows}, DType::i32), sequences, context);
  };
  run(batch);
  if (drops_tokens(model.config())) return;
  for (DecodingCache& cache : caches) cache.clear();
  sequences.back().tokens = tokens;
  run(batch - 1 + tokens);
}

}  // namespace

std::size_t staging_bytes(const Config& config, const std::vector<TensorPiece>& pieces) {
  // A copy for the last checkpoint alone is not worth it.
  const bool background = config.checkpoint.background && config.checkpoint.every > 0;
  return background ? CheckpointSaver::staging_bytes(pieces) : 0;
}

MemoryPlan plan_memory(const Config& config, const PlannedLayout& layout) {
  refuse_violations("layout", layout_violations(config, layout.ranks));
  const ThreadCount thread_count(layout.threads);
  const ProcessMesh mesh(
      make_planning_world(0, layout.ranks, config.parallel.expert, layout.node_ranks),
      config.parallel.expert, layout.node_ranks);
  const Device device = Device::meta(layout.backend);
  // Every pass as large as the largest, which some rank's second one may be.
  Config planned = config;
  const StepShares shares = shares_of(config, layout.ranks);
  planned.train.micro_batch = shares.largest();
  planned.train.global_batch = shares.largest() * shares.ranks * shares.passes;
  TrainingModel training(planned, mesh, device);
  Execution execution({.device = device});
  ExecutionContext& context = execution.context();
  // Later micro-batches need what the second one needs.
  training.step({}, 2, context);
  if (!config.data.valid.empty() && config.train.valid_every > 0)
    measure_losses(training.model(), config, shares.largest(), context);

  MemoryPlan plan;
  plan.total_parameters = training.parameters().total_elements();
  plan.active_parameters = active_parameters(config.model);
  ParameterStore& store = training.parameters();
  for (const ParameterScope scope : all_parameter_scopes) {
    plan.parameters += store.values(scope).bytes();
    plan.gradients += store.gradients(scope).bytes();
  }
  plan.optimizer = training.optimizer().bytes();
  plan.activations = context.arena.high_water();
  if (layout.backend == DeviceType::cuda) {
    plan.buffers = gpu_reserve;
  } else {
    plan.buffers = staging_bytes(mesh.world().size());
    if (config.model.moe.experts > 0) plan.buffers += staging_bytes(mesh.expert_replicas().size());
  }
  plan.staging = staging_bytes(
      config, pieces_to_save(training.optimizer(), training.model(), mesh.world().rank()));
  return plan;
}

std::size_t gpu_arena_bytes(const MemoryPlan& plan, std::size_t free) {
  constexpr double gibi = 1024.0 * 1024.0 * 1024.0;
  const auto gib = [](std::size_t bytes) { return static_cast<double>(bytes) / gibi; };
  if (plan.device_total() > free) {
    throw InvalidArgument(fmt::format(
        "configuration: a rank needs {:.2f} GiB on its GPU, {:.2f} are free: parameters {:.2f}, "
        "gradients {:.2f}, optimizer {:.2f}, activations {:.2f}, buffers {:.2f}; less are needed "
        "with a smaller train.micro_batch, train.recompute = activation or block, or where ranks "
        "exchange rows a smaller moe.row_budget (activations), "
        "optimizer.gradient_dtype = bf16 (gradients), optimizer.moment_dtype = bf16 or more ranks "
        "(optimizer), a larger parallel.expert",
        gib(plan.device_total()), gib(free), gib(plan.parameters), gib(plan.gradients),
        gib(plan.optimizer), gib(plan.activations), gib(plan.buffers)));
  }
  return plan.activations;
}

InferenceMemory plan_inference(const Config& config, const ProcessMesh& layout, DeviceType backend,
                               const InferencePasses& passes) {
  const PassLimits& limits = passes.limits;
  const int expert_parallel = layout.expert_parallel();
  const ProcessMesh mesh(make_planning_world(0, layout.world().size(), expert_parallel),
                         expert_parallel);
  const Device device = Device::meta(backend);
  const DType dtype =
      compute_dtype(backend == DeviceType::cpu ? Precision::f32 : config.train.precision, backend);
  ParameterStore store(mesh);
  LanguageModel model(config.model, mesh, store);
  store.allocate(dtype, device);
  Execution execution({.device = device});
  ExecutionContext& context = execution.context();
  measure_losses(model, config, limits.tokens / config.model.context, context);
  if (!drops_tokens(config.model)) measure_shared_losses(model, limits, context);
  measure_generation(model, passes, dtype, context);
  const Arena::Scope scope(context.arena);
  DecodingCache cache(config.model, config.model.context, dtype, device);
  model.next_token_logits(context.arena.allocate({config.model.context}, DType::i32), cache,
                          context);
  InferenceMemory memory{.activations = context.arena.high_water()};
  for (const ParameterScope parameters : all_parameter_scopes)
    memory.parameters += store.values(parameters).bytes();
  return memory;
}

}  // namespace polymoe
