// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/device.h"

namespace polymoe {

/// Order in which a device's work happens. Operations are asynchronous on their stream; the CPU
/// and meta backends are done when they return. Move-only.
class Stream {
 public:
  /// Throws DeviceError where the device does not exist.
  explicit Stream(Device device);
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  /// Blocks until all work submitted so far is done. Throws DeviceError when some of it failed.
  void synchronize();
  /// The backend's own handle (a cudaStream_t); null on the CPU and meta devices.
  void* native() const { return native_; }

 private:
  Device device_;
  void* native_ = nullptr;
};

}  // namespace polymoe
