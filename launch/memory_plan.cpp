// SPDX-License-Identifier: Apache-2.0
#include "launch/memory_plan.h"

#include <omp.h>

#include <algorithm>

#include "launch/options.h"
#include "launch/training_step.h"
#include "moe/language_model.h"
#include "parallel/checkpoint_saver.h"
#include "parallel/collectives.h"
#include "parallel/planning/planning_communicator.h"
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
  TrainingModel training(config, mesh, Device::meta());
  Stream stream(Device::meta());
  Arena arena({.device = Device::meta()});
  Timeline timeline;
  ExecutionContext context{stream, arena, timeline};
  // Later micro-batches need what the second one needs.
  training.step({}, 2, context);
  if (!config.data.valid.empty() && config.train.valid_every > 0)
    training.model().token_losses(
        allocate_batch(config.train.micro_batch, config.model.context, arena), context);

  MemoryPlan plan;
  plan.total_parameters = training.parameters().total_elements();
  plan.active_parameters = LanguageModel::active_parameters(config.model);
  ParameterStore& store = training.parameters();
  for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert}) {
    plan.parameters += store.values(scope).bytes();
    plan.gradients += store.gradients(scope).bytes();
  }
  plan.optimizer = training.optimizer_bytes();
  plan.activations = arena.high_water();
  plan.buffers = staging_bytes(mesh.world().size());
  if (config.model.moe.experts > 0) plan.buffers += staging_bytes(mesh.expert_replicas().size());
  std::vector<TensorPiece> pieces = training.optimizer().pieces_to_save();
  for (TensorPiece& piece : training.model().router_bias_pieces())
    pieces.push_back(std::move(piece));
  plan.staging = staging_bytes(config, pieces, Device::cpu());
  return plan;
}

}  // namespace polymoe
