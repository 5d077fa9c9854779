// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "launch/config/config.h"
#include "launch/data/training_data.h"
#include "launch/step/pass_limits.h"
#include "launch/step/training_model.h"
#include "launch/training/run_outputs.h"
#include "launch/training/step_metrics.h"
#include "launch/training/task_scoring.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"
#include "runtime/log.h"

namespace polymoe {

/// Evaluations within a run: the loss on data.valid, and the scores on eval.tasks.
class RunEvaluation {
 public:
  /// What they need; outlives this.
  struct Run {
    const Config& config;
    const ProcessMesh& mesh;
    const TrainingData& data;
    TrainingModel& model;
    ExecutionContext& context;
    RunOutputs& outputs;
    Log& log;
  };

  /// `leave` is asked within an evaluation, on every rank, and answers the same on all of them:
  /// true leaves it without a result. Reads the tasks; see TaskScoring. Collective.
  RunEvaluation(const Run& run, std::function<bool()> leave);

  bool validation_is_due(std::int64_t step) const;
  bool scoring_is_due(std::int64_t step) const;
  /// The model as it is after metrics.step; the results go there and to the outputs. Collective.
  void validate(StepMetrics& metrics);
  void score_tasks(StepMetrics& metrics);

  /// The last validation's loss; nothing where there was none.
  std::optional<double> valid_loss() const { return valid_loss_; }

 private:
  const Run run_;
  const std::function<bool()> leave_;
  const TaskScoring scoring_;
  const PassLimits scoring_limits_;
  std::optional<double> valid_loss_;
};

}  // namespace polymoe
