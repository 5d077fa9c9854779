// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream.h"

#include <utility>

#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"

namespace polymoe {

Stream::Stream(Device device) : device_(device) {
  if (device.type == DeviceType::cuda) native_ = cuda::create_stream(device.index);
}

Stream::~Stream() {
  while (!resources_.empty()) resources_.pop_back();
  if (native_ != nullptr) cuda::destroy_stream(native_);
}

Stream::Stream(Stream&& other) noexcept
    : device_(other.device_),
      native_(std::exchange(other.native_, nullptr)),
      waited_seconds_(other.waited_seconds_),
      resources_(std::move(other.resources_)) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(native_, other.native_);
  std::swap(waited_seconds_, other.waited_seconds_);
  std::swap(resources_, other.resources_);
  return *this;
}

void Stream::synchronize() {
  if (native_ == nullptr) return;
  count_wait([&] { cuda::synchronize_stream(native_); });
}

}  // namespace polymoe
