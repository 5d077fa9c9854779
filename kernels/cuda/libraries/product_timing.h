// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace polymoe::cuda {

/// Whether the candidates for a product may be timed now. Knows of no library, so that it is tested
/// without a GPU.
class ProductTiming {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Use : std::uint8_t {
    alone,
    side_by_side,  // one of a group
    rare,          // a size that its range's algorithm cannot do: never worth timing
  };

  /// What timing takes at most at first, and of a run; nothing of the first seconds of one that
  /// times late.
  static constexpr std::chrono::milliseconds at_first{1500};
  static constexpr int share = 20;
  static constexpr std::chrono::seconds untimed_seconds{5};

  /// From now on every product waits for the allowance, and there is none in the first seconds.
  void begin_late() { late_ = true; }

  /// Nothing is timed until as many calls of permit() as of forbid(), whatever time has passed. The
  /// run's clock does not begin to count meanwhile.
  void forbid() { ++forbidden_; }
  void permit() { --forbidden_; }

  /// A product by itself is timed at once unless the run times late; one of a group while timing
  /// has taken less than its allowance of the time since the first that asked.
  bool allows(Use use, Clock::time_point now = Clock::now()) {
    if (forbidden_ > 0 || use == Use::rare) return false;
    if (use == Use::alone && !late_) return true;
    if (!began_) began_ = now;
    const Clock::duration since = now - *began_;
    return late_ ? taken_ < (since - untimed_seconds) / share : taken_ < at_first + since / share;
  }

  /// Choosing has taken this long.
  void add(Clock::duration taken) { taken_ += taken; }

 private:
  bool late_ = false;
  int forbidden_ = 0;
  std::optional<Clock::time_point> began_;
  Clock::duration taken_{};
};

}  // namespace polymoe::cuda
