// SPDX-License-Identifier: Apache-2.0
#include "runtime/recorded_work.h"

#include <functional>

#include "runtime/cuda/graph.h"
#include "runtime/stream.h"

namespace polymoe {

RecordedWork::RecordedWork(Stream& stream, const std::function<void()>& submit) {
  cuda::begin_recording(stream.native());
  try {
    submit();
  } catch (...) {
    cuda::abandon_recording(stream.native());
    throw;
  }
  recording_ = cuda::end_recording(stream.native());
}

RecordedWork::~RecordedWork() { cuda::destroy_recording(recording_); }

void RecordedWork::run(Stream& stream) const {
  cuda::submit_recording(recording_, stream.native());
}

}  // namespace polymoe
