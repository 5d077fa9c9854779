// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

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

/// Evaluations of a step.
struct Evaluations {
  bool validation = false;  // the loss on data.valid
  bool scoring = false;     // on eval.tasks

  bool any() const { return validation || scoring; }
};

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
    /// Told "validating" or "scoring" when that begins. May be empty.
    std::function<void(std::string_view)> work_begins;
  };

  /// `leave` is asked within an evaluation, on every rank, and answers the same on all of them:
  /// true leaves it without a result. Reads the tasks; see TaskScoring. Collective.
  RunEvaluation(const Run& run, std::function<bool()> leave);

  Evaluations due(std::int64_t step) const;
  /// Of those that are due after `step`, which the run goes on from, what its row of metrics.jsonl
  /// lacks: a start before was stopped or killed within them, or they were asked for since.
  /// Collective.
  Evaluations missing(std::int64_t step) const;

  /// The model as it is after `step`, which has seen `tokens`; each result goes to the outputs as
  /// soon as it is there. Where `stopped`, or once leave() says so, the log says what is left.
  /// Whether nothing was. A scoring that meets values which are not finite has no result, see
  /// not_finite(). Collective.
  bool make(const Evaluations& wanted, bool stopped, std::int64_t step, std::int64_t tokens);

  /// The last validation's loss; nothing where there was none.
  std::optional<double> valid_loss() const { return valid_loss_; }
  /// What the last scoring met that is not finite; empty where all was.
  const std::string& not_finite() const { return not_finite_; }

 private:
  bool validate(StepMetrics& metrics);
  bool score_tasks(StepMetrics& metrics);

  const Run run_;
  const std::function<bool()> leave_;
  const TaskScoring scoring_;
  const PassLimits scoring_limits_;
  std::optional<double> valid_loss_;
  std::string not_finite_;
};

}  // namespace polymoe
