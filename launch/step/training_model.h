// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/data/token_rows.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/gradient_reducer.h"
#include "parallel/parameters/parameter_store.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/context.h"

namespace polymoe {

/// A rank's part of a model in training without files around it: what the trainer and a benchmark
/// run, and what a plan is read off.
class TrainingModel {
 public:
  /// Parameters are allocated, of compute_dtype(), and stay zero. Throws InvalidArgument listing
  /// the layout's violations.
  TrainingModel(const Config& config, const ProcessMesh& mesh, Device device);

  /// Forward and backward of this rank's micro-batches and the reduction of the gradients, which
  /// start at zero. `fill` writes the rank's share of pass `pass`; it may be empty on the meta
  /// device. With `passes` less than the step has, only the first ones run. Returns the rank's
  /// share of the loss. Collective over the mesh.
  using FillPass = std::function<void(std::int64_t pass, const TokenRows& rows)>;
  /// Rows of the global batch, the same numbers on every rank.
  struct CountedRows {
    std::int64_t predicted = 0;  // at least 1
    std::int64_t padding = 0;
  };
  /// The loss is the mean over the predicted tokens of the global batch: all of them, or as many as
  /// are `counted` where some are no targets.
  LossTerms forward_backward(const FillPass& fill, std::int64_t passes, ExecutionContext& context,
                             std::optional<CountedRows> counted = {});
  /// See ShardedOptimizer. Collective over the mesh.
  double gradient_norm(ExecutionContext& context);
  /// Clips by optimizer.clip, or by `clip` where that is given and less, and updates. Collective
  /// over the mesh.
  void update(double gradient_norm, double learning_rate, ExecutionContext& context,
              std::optional<double> clip = {});

  /// A whole optimizer step: the above with optimizer.lr, and the statistics.
  LossTerms step(const FillPass& fill, std::int64_t passes, ExecutionContext& context);

  /// Which sequences of a step each pass of each rank takes.
  const StepShares& shares() const { return shares_; }

  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }
  LanguageModel& model() { return model_; }
  ShardedOptimizer& optimizer() { return optimizer_; }

 private:
  const Config config_;
  const ProcessMesh& mesh_;
  const StepShares shares_;
  ParameterStore store_;
  LanguageModel model_;
  ShardedOptimizer optimizer_;
  GradientReducer reducer_;
};

}  // namespace polymoe
