// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "launch/training/step_metrics.h"
#include "runtime/progress.h"

namespace polymoe {

/// What the progress line tells of a step.
struct ProgressState {
  std::int64_t step = 0;       // done
  std::int64_t last_step = 0;  // of this invocation
  double loss = 0.0;           // mean that forgets old steps
  double grad_norm = 0.0;
  double lr = 0.0;
  double tokens_per_second = 0.0;
  double mfu = 0.0;   // share of the measured product rate
  double load = 0.0;  // of the fullest expert over the mean, worst layer; 0 = no experts
  std::int64_t dead_experts = 0;  // over all layers
  double seconds_left = -1.0;     // until last_step; negative = not known yet
};

/// "step 120/400  loss 3.1416  12.3k tokens/s  2:05 left  norm 0.52  lr 0.0019  mfu 41 %
/// load 1.32": as many of the parts as fit, the first ones being those that matter most.
std::string training_line(const ProgressState& state, int columns);

/// The progress of a training run.
class TrainingProgress {
 public:
  TrainingProgress(const ProgressOutput& output, std::int64_t first_step, std::int64_t last_step);

  /// A step took `seconds`, all its work included. The first and the last one are always shown.
  void step_done(const StepMetrics& metrics, double seconds);
  /// A line that stays, e.g. of a validation.
  void note(const std::string& line) { line_.note(line); }
  /// Mean over the last steps.
  double recent_loss() const { return loss_; }

 private:
  StatusLine line_;
  std::int64_t first_step_;
  std::int64_t last_step_;
  double seconds_per_step_ = 0.0;  // this and the loss are means that forget old steps
  double loss_ = 0.0;
  std::int64_t steps_seen_ = 0;
  std::int64_t losses_seen_ = 0;  // that were finite
};

}  // namespace polymoe
