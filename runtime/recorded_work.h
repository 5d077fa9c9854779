// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "runtime/stream.h"

namespace polymoe {

/// Work of a GPU's stream that was recorded once and is submitted again as a whole, at the price of
/// one submission (a CUDA graph). It reads and writes the memory that it was recorded with, which
/// has to stay where it is for as long as this lives.
class RecordedWork {
 public:
  /// Records what `submit` submits to the stream; none of it is done. It may neither wait for the
  /// device nor take device memory, and should have run before: libraries load at their first use.
  /// Throws DeviceError where it cannot be recorded, or what `submit` throws.
  RecordedWork(Stream& stream, const std::function<void()>& submit);
  ~RecordedWork();
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  /// Does it, in order on `stream`.
  void run(Stream& stream) const;

 private:
  void* recording_ = nullptr;
};

}  // namespace polymoe
