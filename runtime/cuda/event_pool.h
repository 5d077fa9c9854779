// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "runtime/cuda/cuda_device.h"

namespace polymoe::cuda {

/// Events of one device that are used again and again. Those that were taken and not given back are
/// the taker's to destroy.
class EventPool {
 public:
  explicit EventPool(int device) : device_(device) {}
  ~EventPool() {
    for (void* event : unused_) destroy_event(event);
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  /// Throws DeviceError.
  void* take() {
    if (unused_.empty()) return create_event(device_);
    void* const event = unused_.back();
    unused_.pop_back();
    return event;
  }
  void give_back(void* event) { unused_.push_back(event); }

 private:
  int device_;
  std::vector<void*> unused_;
};

}  // namespace polymoe::cuda
