// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>

namespace polymoe {

/// What a training step spends its time on; the keys of `step_seconds` in metrics.jsonl.
enum class Phase : std::size_t {
  other,
  data,
  forward,
  backward,
  exchange,  // dispatch and combine between ranks
  gradient_reduction,
  optimizer,
  count
};
const char* name_of(Phase phase);

/// Wall-clock seconds per phase. Phases nest: time inside an inner phase is not counted to the
/// outer one. Not thread-safe: one per rank, used by the rank's main thread.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  Timeline() : last_(Clock::now()) {}

  double seconds(Phase phase) const { return seconds_[static_cast<std::size_t>(phase)]; }
  /// Sets every phase to zero; the current one goes on from now.
  void reset();

  /// Attributes the time of a block to `phase`.
  class Scope {
   public:
    Scope(Timeline& timeline, Phase phase)
        : timeline_(timeline), outer_(timeline.switch_to(phase)) {}
    ~Scope() { timeline_.switch_to(outer_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Timeline& timeline_;
    Phase outer_;
  };

 private:
  Phase switch_to(Phase phase);

  std::array<double, static_cast<std::size_t>(Phase::count)> seconds_{};
  Phase current_ = Phase::other;
  Clock::time_point last_;
};

}  // namespace polymoe
