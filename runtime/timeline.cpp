// SPDX-License-Identifier: Apache-2.0
#include "runtime/timeline.h"

namespace polymoe {

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::other:
      return "other";
    case Phase::data:
      return "data";
    case Phase::forward:
      return "forward";
    case Phase::backward:
      return "backward";
    case Phase::exchange:
      return "exchange";
    case Phase::gradient_reduction:
      return "gradient_reduction";
    case Phase::optimizer:
      return "optimizer";
    case Phase::count:
      break;
  }
  return "?";
}

void Timeline::reset() {
  seconds_.fill(0.0);
  last_ = Clock::now();
}

Phase Timeline::switch_to(Phase phase) {
  const auto now = Clock::now();
  seconds_[static_cast<std::size_t>(current_)] +=
      std::chrono::duration<double>(now - last_).count();
  last_ = now;
  const Phase outer = current_;
  current_ = phase;
  return outer;
}

}  // namespace polymoe
