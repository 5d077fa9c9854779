// SPDX-License-Identifier: Apache-2.0
#include "runtime/timeline.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>

#include "runtime/cuda/cuda_device.h"
#include "runtime/cuda/event_pool.h"
#include "runtime/device.h"
#include "runtime/stream.h"

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
    case Phase::exchange_wait:
      return "exchange_wait";
    case Phase::gradient_reduction:
      return "gradient_reduction";
    case Phase::optimizer:
      return "optimizer";
    case Phase::count:
      break;
  }
  return "?";
}

/// Events in a stream, one for each change of phase, until the time between them is read.
class Timeline::StreamMarks {
 public:
  explicit StreamMarks(Stream& stream) : stream_(stream), events_(stream.device().index) {
    add(Phase::other);
  }
  ~StreamMarks() {
    for (const Mark& mark : marks_) cuda::destroy_event(mark.event);
  }
  StreamMarks(const StreamMarks&) = delete;
  StreamMarks& operator=(const StreamMarks&) = delete;

  /// `phase` begins here. Reads the older half when there are many: the stream is past it.
  void add(Phase phase, Seconds* read = nullptr) {
    void* const event = events_.take();
    cuda::record_event(event, stream_.native());
    marks_.push_back({phase, event});
    if (read != nullptr && marks_.size() > most) settle(most / 2, *read);
  }
  /// Adds the time between all marks but the last `keep` to the phases, and forgets it.
  void settle(std::size_t keep, Seconds& seconds) {
    while (marks_.size() > std::max<std::size_t>(keep, 1)) {
      const Mark begin = marks_.front();
      marks_.pop_front();
      seconds[static_cast<std::size_t>(begin.phase)] +=
          cuda::seconds_between(begin.event, marks_.front().event);
      events_.give_back(begin.event);
    }
  }

 private:
  static constexpr std::size_t most = 1024;
  struct Mark {
    Phase phase;
    void* event;
  };

  Stream& stream_;
  std::deque<Mark> marks_;
  cuda::EventPool events_;
};

Timeline::Timeline() : last_(Clock::now()) {}

Timeline::Timeline(Stream& stream) : Timeline() {
  if (stream.device().type == DeviceType::cuda) marks_ = std::make_unique<StreamMarks>(stream);
}

Timeline::~Timeline() = default;

double Timeline::seconds(Phase phase) {
  if (marks_) marks_->settle(1, seconds_);
  return seconds_[static_cast<std::size_t>(phase)];
}

void Timeline::reset() {
  if (marks_) {
    switch_to(current_);
    marks_->settle(1, seconds_);
  }
  seconds_.fill(0.0);
  last_ = Clock::now();
}

Phase Timeline::switch_to(Phase phase) {
  if (marks_) {
    marks_->add(phase, &seconds_);
  } else {
    const auto now = Clock::now();
    seconds_[static_cast<std::size_t>(current_)] +=
        std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  const Phase outer = current_;
  current_ = phase;
  if (listener_) listener_(phase);
  return outer;
}

}  // namespace polymoe
