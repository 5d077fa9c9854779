// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "launch/config.h"
#include "moe/language_model.h"
#include "parallel/gradient_reducer.h"
#include "parallel/parameter_store.h"
#include "parallel/process_mesh.h"
#include "parallel/sharded_optimizer.h"
#include "runtime/context.h"

namespace polymoe {

/// A rank's part of a model in training without files around it: what a plan is read off, and what
/// a benchmark runs.
class TrainingModel {
 public:
  /// Parameters are allocated and stay zero.
  TrainingModel(const Config& config, const ProcessMesh& mesh, Device device);

  /// One optimizer step as the trainer does it: forward and backward of this rank's micro-batches,
  /// reduction, norm and clipping, update, statistics. With `passes` less than the step has, only
  /// the last ones run. `fill` writes a micro-batch's tokens and targets; it may be empty on the
  /// meta device. Returns the rank's share of the loss. Collective over the mesh.
  LossTerms step(const std::function<void(const TokenBatch&)>& fill, std::int64_t passes,
                 ExecutionContext& context);

  /// Of a whole step on one rank.
  std::int64_t passes_per_step() const;

  ParameterStore& parameters() { return store_; }
  LanguageModel& model() { return model_; }
  ShardedOptimizer& optimizer() { return optimizer_; }
  /// Bytes of the moments that this rank owns.
  std::size_t optimizer_bytes() const;

 private:
  const Config config_;
  const ProcessMesh& mesh_;
  ParameterStore store_;
  LanguageModel model_;
  ShardedOptimizer optimizer_;
  GradientReducer reducer_;
};

/// Memory of the arena for a batch of `sequences` sequences.
TokenBatch allocate_batch(std::int64_t sequences, std::int64_t length, Arena& arena);

}  // namespace polymoe
