// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communication/communicator.h"
#include "runtime/error.h"

namespace polymoe {

/// What communicators for device memory have in common: they own a communicator of the same ranks
/// for host memory. Tensors of the device are checked here and then handed to the derived class;
/// host and meta tensors, counts and barriers go to the host's communicator. The two sides are two
/// queues: an operation of one is not ordered against one of the other; barrier() waits for both.
///
/// One thread at a time uses it, interrupt() apart.
class DeviceCommunicator : public Communicator {
 public:
  int rank() const final { return host_->rank(); }
  int size() const final { return host_->size(); }

  Pending start(const Collective& operation, Stream& stream) final;
  void barrier() final;
  void all_to_all_counts(std::span<const std::int64_t> send, std::span<std::int64_t> receive) final;
  void shutdown() final;

 protected:
  DeviceCommunicator(std::unique_ptr<Communicator> host, Device device, std::string group)
      : host_(std::move(host)), device_(device), group_(std::move(group)) {}

  /// Any operation but exchange, of a group of at least two ranks, with checked arguments that are
  /// not empty; of all_to_all any of the counts may be zero, and all of them.
  virtual Pending post(const Collective& operation, Stream& stream) = 0;
  /// Blocks until what this rank posted is done.
  virtual void finish_posted() = 0;
  /// The device's part of shutdown(), when all ranks have come to it.
  virtual void close() = 0;

  std::string place(const char* operation) const;
  Communicator& host() { return *host_; }
  Device device() const { return device_; }
  const std::string& group() const { return group_; }

  /// For destructors: the host's communicator ends before what it may still be using.
  void release_host() { host_.reset(); }

  /// Runs `call` on the host's communicator. A loss that the device saw first is what is reported.
  template <class Call>
  auto on_host(Call call) {
    check();
    try {
      return call(*host_);
    } catch (const CommunicationError&) {
      check();
      throw;
    }
  }

 private:
  bool here(const Tensor& tensor) const { return tensor.defined() && tensor.device() == device_; }
  /// Whether all it moves lies on the device.
  bool here(const Collective& operation) const;
  /// Begins an operation on tensors of the device. Throws when it cannot begin.
  std::string begin(const char* operation) const;

  std::unique_ptr<Communicator> host_;
  Device device_;
  std::string group_;
  bool closed_ = false;
};

}  // namespace polymoe
