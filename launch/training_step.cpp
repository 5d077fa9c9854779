// SPDX-License-Identifier: Apache-2.0
#include "launch/training_step.h"

#include <algorithm>

namespace polymoe {
namespace {

ParameterStore& allocated(ParameterStore& store, Device device) {
  store.allocate(DType::f32, device);
  return store;
}

}  // namespace

TrainingModel::TrainingModel(const Config& config, const ProcessMesh& mesh, Device device)
    : config_(config),
      mesh_(mesh),
      store_(mesh),
      model_(config.model, mesh, store_),
      optimizer_(allocated(store_, device), config.optimizer.adamw),
      reducer_(store_) {}

std::int64_t TrainingModel::passes_per_step() const {
  return config_.train.global_batch / (config_.train.micro_batch * mesh_.world().size());
}

LossTerms TrainingModel::step(const std::function<void(const TokenBatch&)>& fill,
                              std::int64_t passes, ExecutionContext& context) {
  const TrainConfig& train = config_.train;
  const std::int64_t length = config_.model.context;
  const GlobalBatch global{.tokens = train.global_batch * length,
                           .sequences = train.global_batch,
                           .micro_batches = passes_per_step() * mesh_.world().size()};
  const auto segment_done = [&](int segment) {
    const Timeline::Scope phase(context.timeline, Phase::gradient_reduction);
    reducer_.start(segment, context.stream);
  };
  store_.zero_gradients();
  LossTerms losses;
  const std::int64_t count = std::min(passes, passes_per_step());
  for (std::int64_t pass = 0; pass < count; ++pass) {
    const Arena::Scope scope(context.arena);
    const TokenBatch batch = allocate_batch(train.micro_batch, length, context.arena);
    if (fill) {
      const Timeline::Scope phase(context.timeline, Phase::data);
      fill(batch);
    }
    const bool last = pass + 1 == count;
    const LossTerms terms = model_.forward_backward(
        batch, global, train.recompute, last ? segment_done : std::function<void(int)>(), context);
    losses.cross_entropy += terms.cross_entropy;
    losses.balance += terms.balance;
    losses.z += terms.z;
  }
  {
    const Timeline::Scope phase(context.timeline, Phase::gradient_reduction);
    reducer_.finish(context.stream);
  }
  {
    const Timeline::Scope phase(context.timeline, Phase::optimizer);
    const double norm = optimizer_.gradient_norm(mesh_.world(), context);
    const double clip = config_.optimizer.clip;
    const double scale = clip > 0.0 && norm > clip ? clip / norm : 1.0;
    optimizer_.step(config_.optimizer.lr, scale, context);
  }
  model_.finish_step(context);
  context.stream.synchronize();
  return losses;
}

std::size_t TrainingModel::optimizer_bytes() const {
  std::size_t bytes = 0;
  for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert})
    for (int segment = 0; segment < store_.segments(); ++segment)
      bytes +=
          2 * static_cast<std::size_t>(store_.owned(scope, segment).size()) * size_of(DType::f32);
  return bytes;
}

TokenBatch allocate_batch(std::int64_t sequences, std::int64_t length, Arena& arena) {
  const std::int64_t rows = sequences * length;
  return {.tokens = arena.allocate({rows}, DType::i32),
          .targets = arena.allocate({rows}, DType::i32),
          .sequences = sequences,
          .length = length};
}

}  // namespace polymoe
