// SPDX-License-Identifier: Apache-2.0
#include "launch/step/training_model.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/data/token_rows.h"
#include "launch/machine/device_choice.h"
#include "launch/step/token_batch.h"
#include "layers/batch.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/device.h"
#include "runtime/timeline.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

ParameterStore& allocated(ParameterStore& store, const Config& config, Device device) {
  store.allocate(compute_dtype(config.train.precision, device.backend()), device,
                 gradient_dtype(config, device.backend()));
  return store;
}

StepShares shares_of_run(const Config& config, int ranks) {
  refuse_violations("configuration", layout_violations(config, ranks));
  return shares_of(config, ranks);
}

}  // namespace

TrainingModel::TrainingModel(const Config& config, const ProcessMesh& mesh, Device device)
    : config_(config),
      mesh_(mesh),
      shares_(shares_of_run(config, mesh.world().size())),
      store_(mesh),
      model_(config.model, mesh, store_),
      optimizer_(allocated(store_, config, device), config.optimizer.adamw),
      reducer_(store_) {}

LossTerms TrainingModel::forward_backward(const FillPass& fill, std::int64_t passes,
                                          ExecutionContext& context,
                                          std::optional<CountedRows> counted) {
  const TrainConfig& train = config_.train;
  const std::int64_t length = config_.model.context;
  const CountedRows rows =
      counted.value_or(CountedRows{.predicted = train.global_batch * length, .padding = 0});
  const GlobalBatch global{.tokens = rows.predicted,
                           .sequences = train.global_batch,
                           .micro_batches = shares_.passes * shares_.ranks,
                           .padding = rows.padding};
  const auto segment_done = [&](int segment) {
    const Timeline::Scope phase(context.timeline, Phase::gradient_reduction);
    reducer_.start(segment, context.stream);
  };
  store_.zero_gradients(context.stream);
  LossTerms losses;
  const std::int64_t count = std::min(passes, shares_.passes);
  for (std::int64_t pass = 0; pass < count; ++pass) {
    const Arena::Scope scope(context.arena);
    const TokenBatch batch = make_batch(
        {.sequences = shares_.of(pass, mesh_.world().rank()).count,
         .length = length,
         .documents = config_.data.keeps_documents()},
        [&](const TokenRows& to) { fill(pass, to); }, context);
    const bool last = pass + 1 == count;
    losses += model_.forward_backward(batch, global, train.recompute,
                                      last ? segment_done : std::function<void(int)>(), context);
  }
  const Timeline::Scope phase(context.timeline, Phase::gradient_reduction);
  reducer_.finish(context.stream);
  return losses;
}

double TrainingModel::gradient_norm(ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::optimizer);
  return optimizer_.gradient_norm(mesh_.world(), context);
}

void TrainingModel::update(double gradient_norm, double learning_rate, ExecutionContext& context,
                           std::optional<double> clip) {
  const Timeline::Scope phase(context.timeline, Phase::optimizer);
  double most = std::min(config_.optimizer.clip, clip.value_or(config_.optimizer.clip));
  if (config_.optimizer.clip == 0.0) most = clip.value_or(0.0);
  const double scale = most > 0.0 && gradient_norm > most ? most / gradient_norm : 1.0;
  optimizer_.step(learning_rate, scale, context);
}

LossTerms TrainingModel::step(const FillPass& fill, std::int64_t passes,
                              ExecutionContext& context) {
  const LossTerms losses = forward_backward(fill, passes, context);
  update(gradient_norm(context), config_.optimizer.lr, context);
  model_.finish_step(context);
  context.stream.synchronize();
  return losses;
}

}  // namespace polymoe
