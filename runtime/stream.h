// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/device.h"

namespace polymoe {

/// What a backend keeps with one stream for one library: its handle, workspaces, chosen algorithms.
/// Its lifetime is the stream's, so there is nothing global to initialise, share or lock.
class StreamResources {
 public:
  virtual ~StreamResources() = default;
};

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
  /// Seconds so far in which callers were held up by a GPU's work: in synchronize(), and in copies
  /// to the host, which block until they are there.
  double waited_seconds() const { return waited_seconds_; }
  /// Calls wait(), whose seconds are counted so.
  template <class Wait>
  void count_wait(Wait&& wait) {
    const auto begin = std::chrono::steady_clock::now();
    std::forward<Wait>(wait)();
    waited_seconds_ +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  /// The backend's own handle (a cudaStream_t); null on the CPU and meta devices.
  void* native() const { return native_; }
  /// The stream's one `Resources`, made from the stream at first use; those made later end first,
  /// all of them before the native handle. The stream may move; its native handle stays the same.
  template <class Resources>
  Resources& resources() {
    for (const std::unique_ptr<StreamResources>& made : resources_) {
      if (auto* const found = dynamic_cast<Resources*>(made.get())) return *found;
    }
    auto made = std::make_unique<Resources>(*this);
    Resources& result = *made;
    resources_.push_back(std::move(made));
    return result;
  }

 private:
  Device device_;
  void* native_ = nullptr;
  double waited_seconds_ = 0.0;
  std::vector<std::unique_ptr<StreamResources>> resources_;
};

}  // namespace polymoe
