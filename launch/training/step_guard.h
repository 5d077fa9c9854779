// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "launch/config/config.h"
#include "runtime/files/json.h"

namespace polymoe {

/// What becomes of a step whose gradient is there.
struct StepVerdict {
  enum class Kind : std::uint8_t {
    apply,
    not_finite,  // skipped
    spike,       // skipped
    clip,        // a spike, applied with its gradient cut to clip_to
  };
  Kind kind = Kind::apply;
  std::optional<double> z_score;  // of the gradient norm, where a window of norms is there
  double clip_to = 0.0;

  bool skipped() const { return kind == Kind::not_finite || kind == Kind::spike; }
};

/// Judges each step by its loss and the norm of its gradient, which are the same on all ranks, and
/// so is what this says.
///
/// A norm is a spike when it lies more than train.spike_z standard deviations above the mean of the
/// last train.spike_window norms. A spike enters the window as the highest norm that is none: so a
/// level that stays higher is taken for normal after some steps.
///
/// The run is sound while the mean loss of about the last 20 steps is at most 0.2 nats above the
/// lowest that it has been, and the last step was finite.
class StepGuard {
 public:
  explicit StepGuard(const TrainConfig& config) : config_(config) {}

  StepVerdict judge(double loss, double gradient_norm);

  /// Steps since the beginning of training that were not applied.
  std::int64_t skipped() const { return skipped_; }
  /// The last steps that were not finite, up to now.
  std::int64_t not_finite_in_a_row() const { return not_finite_in_a_row_; }
  bool sound() const;

  /// What a resumed run needs to judge alike.
  Json state() const;
  /// Throws InvalidArgument. A null is the state of a checkpoint that knows none.
  void restore(const Json& state);

 private:
  StepVerdict judge_norm(double gradient_norm);

  TrainConfig config_;
  std::deque<double> norms_;  // oldest first
  std::int64_t skipped_ = 0;
  std::int64_t not_finite_in_a_row_ = 0;
  std::int64_t losses_ = 0;  // in mean_loss_, as far as it counts them
  double mean_loss_ = 0.0;
  double lowest_mean_loss_ = 0.0;
};

}  // namespace polymoe
