// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "runtime/stream.h"

namespace polymoe {

/// What a training step spends its time on; the keys of `step_seconds` in metrics.jsonl.
enum class Phase : std::size_t {
  other,
  data,
  forward,
  backward,
  exchange,       // dispatch and combine: rows moved within a rank
  exchange_wait,  // and waited for from other ranks
  gradient_reduction,
  optimizer,
  count
};
const char* name_of(Phase phase);

/// Where in a model the host is.
struct ModelPlace {
  std::int64_t layer = -1;    // the block; -1 = in none
  bool backward = false;      // in the backward pass
  const char* transfer = "";  // of that layer, "dispatch": a literal; empty = in none
};

/// Seconds per phase. Phases nest: time inside an inner phase is not counted to the outer one. On
/// the CPU they are the host's wall clock. With a GPU's stream they are the stream's own time, from
/// when its work reached the beginning of a phase to when it reached the end, whenever the host
/// submitted it: gaps in which the GPU waits for the host count to the phase they fall into.
/// Not thread-safe: one per rank, used by the rank's main thread.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  Timeline();
  /// Times the work on `stream`, which outlives this.
  explicit Timeline(Stream& stream);
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  /// What has ended by now counts, the phase under way does not. On a GPU blocks until the stream
  /// has reached the last change of phase.
  double seconds(Phase phase);
  /// Tells `listener` of each change of phase as the host comes to it; empty = nobody.
  void set_listener(std::function<void(Phase)> listener) { listener_ = std::move(listener); }
  /// Likewise of each change of place, which takes no time from any phase.
  void set_place_listener(std::function<void(const ModelPlace&)> listener) {
    place_listener_ = std::move(listener);
  }
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

  /// The host is at a place within a block of code.
  class At {
   public:
    At(Timeline& timeline, const ModelPlace& place)
        : timeline_(timeline), outer_(timeline.move_to(place)) {}
    /// At a transfer of the layer where it is.
    At(Timeline& timeline, const char* transfer)
        : At(timeline, {timeline.place_.layer, timeline.place_.backward, transfer}) {}
    ~At() { timeline_.move_to(outer_); }
    At(const At&) = delete;
    At& operator=(const At&) = delete;

   private:
    Timeline& timeline_;
    ModelPlace outer_;
  };

 private:
  class StreamMarks;
  using Seconds = std::array<double, static_cast<std::size_t>(Phase::count)>;

  Phase switch_to(Phase phase);
  ModelPlace move_to(const ModelPlace& place) {
    const ModelPlace outer = std::exchange(place_, place);
    if (place_listener_) place_listener_(place);
    return outer;
  }

  Seconds seconds_{};
  Phase current_ = Phase::other;
  Clock::time_point last_;
  std::function<void(Phase)> listener_;
  ModelPlace place_;
  std::function<void(const ModelPlace&)> place_listener_;
  std::unique_ptr<StreamMarks> marks_;  // null where the host's clock serves
};

}  // namespace polymoe
