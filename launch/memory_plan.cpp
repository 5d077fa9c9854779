// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_plan.h"

#include <omp.h>

#include <algorithm>

#include "launch/options.h"
#include "moe/language_model.h"
#include "parallel/checkpoint_saver.h"
#include "parallel/collectives.h"
#include "parallel/gradient_reducer.h"
#include "parallel/planning/planning_communicator.h"
#include "parallel/sharded_optimizer.h"
#include "runtime/context.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

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

TokenBatch allocate_batch(std::int64_t sequences, std::int64_t length, Arena& arena) {
  const std::int64_t rows = sequences * length;
  return {.tokens = arena.allocate({rows}, DType::i32),
          .targets = arena.allocate({rows}, DType::i32),
          .sequences = sequences,
          .length = length};
}

// One step as the trainer does it. Later micro-batches need what the second one needs.
void run_step(const Config& config, const ProcessMesh& mesh, LanguageModel& model,
              GradientReducer& reducer, ShardedOptimizer& optimizer, ExecutionContext& context) {
  const TrainConfig& train = config.train;
  const std::int64_t length = config.model.context;
  const std::int64_t passes = train.global_batch / (train.micro_batch * mesh.world().size());
  const GlobalBatch global{.tokens = train.global_batch * length,
                           .sequences = train.global_batch,
                           .micro_batches = passes * mesh.world().size()};
  const std::int64_t first = std::max<std::int64_t>(passes - 2, 0);
  for (std::int64_t pass = first; pass < passes; ++pass) {
    const Arena::Scope scope(context.arena);
    std::function<void(int)> segment_done;
    if (pass + 1 == passes)
      segment_done = [&](int segment) { reducer.start(segment, context.stream); };
    model.forward_backward(allocate_batch(train.micro_batch, length, context.arena), global,
                           train.recompute, segment_done, context);
  }
  reducer.finish(context.stream);
  optimizer.gradient_norm(mesh.world(), context);
  optimizer.step(config.optimizer.lr, 1.0, context);
  model.finish_step(context);
  if (!config.data.valid.empty() && train.valid_every > 0) {
    const Arena::Scope scope(context.arena);
    model.token_losses(allocate_batch(train.micro_batch, length, context.arena), context);
  }
}

}  // namespace

std::size_t staging_bytes(const Config& config, const std::vector<TensorPiece>& pieces,
                          Device device) {
  // Files are written from host memory; the copy for the last checkpoint alone is not worth it.
  const bool background = config.checkpoint.background && config.checkpoint.every > 0;
  const bool needed = background || device.type != DeviceType::cpu;
  return needed ? CheckpointSaver::staging_bytes(pieces) : 0;
}

MemoryPlan plan_memory(const Config& config, int ranks, int threads) {
  const std::vector<std::string> violations = layout_violations(config, ranks);
  if (!violations.empty()) throw InvalidArgument(list_violations("layout", violations));
  const ThreadCount thread_count(threads);
  const ProcessMesh mesh(make_planning_world(0, ranks, config.parallel.expert),
                         config.parallel.expert);
  ParameterStore store(mesh);
  LanguageModel model(config.model, mesh, store);
  store.allocate(DType::f32, Device::meta());
  ShardedOptimizer optimizer(store, config.optimizer.adamw);
  GradientReducer reducer(store);

  Stream stream(Device::meta());
  Arena arena({.device = Device::meta()});
  Timeline timeline;
  ExecutionContext context{stream, arena, timeline};
  run_step(config, mesh, model, reducer, optimizer, context);

  MemoryPlan plan;
  plan.total_parameters = store.total_elements();
  plan.active_parameters = LanguageModel::active_parameters(config.model);
  for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert}) {
    plan.parameters += store.values(scope).bytes();
    plan.gradients += store.gradients(scope).bytes();
    for (int segment = 0; segment < store.segments(); ++segment)
      plan.optimizer +=
          2 * static_cast<std::size_t>(store.owned(scope, segment).size()) * size_of(store.dtype());
  }
  plan.activations = arena.high_water();
  plan.buffers = staging_bytes(mesh.world().size());
  if (config.model.moe.experts > 0) plan.buffers += staging_bytes(mesh.expert_replicas().size());
  std::vector<TensorPiece> pieces = optimizer.pieces_to_save();
  for (TensorPiece& piece : model.router_bias_pieces()) pieces.push_back(std::move(piece));
  plan.staging = staging_bytes(config, pieces, Device::cpu());
  return plan;
}

}  // namespace polymoe
