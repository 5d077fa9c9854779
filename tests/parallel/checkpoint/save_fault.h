// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <utility>

#include "parallel/checkpoint/save_observer.h"

namespace polymoe::test {

/// Does something at the n-th time that a save reaches a point.
class Fault final : public SaveObserver {
 public:
  Fault(SavePoint point, std::function<void()> action, int nth = 1)
      : point_(point), action_(std::move(action)), left_(nth) {}
  void reached(SavePoint point) override {
    if (point == point_ && --left_ == 0) action_();
  }
  void disarm() { left_ = 0; }

 private:
  SavePoint point_;
  std::function<void()> action_;
  std::atomic<int> left_;
};

/// Holds a save at a point until end().
class Pause final : public SaveObserver {
 public:
  explicit Pause(SavePoint point) : point_(point), open_(gate_.get_future().share()) {}
  void reached(SavePoint point) override {
    if (point == point_) open_.wait();
  }
  void end() { gate_.set_value(); }

 private:
  SavePoint point_;
  std::promise<void> gate_;
  std::shared_future<void> open_;
};

}  // namespace polymoe::test
