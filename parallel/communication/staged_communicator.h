// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communication/device_communicator.h"

namespace polymoe {

/// Device tensors over a communicator for host memory: each operation copies what this rank sends
/// to page-locked memory, posts the host's operation there, and copies the result back in wait().
/// For ranks that share a GPU, which NCCL refuses, and for machines without NCCL; sums are formed
/// in rank order.
///
/// start_X and wait() block until their copies are done, so nothing of them overlaps with the
/// device's work. A result that is not waited for never reaches the device. Staging memory grows to
/// what the operations between two waits need and is kept.
class StagedCommunicator final : public DeviceCommunicator {
 public:
  /// `group` is the name in error messages. Device::cpu() stages host tensors.
  StagedCommunicator(std::unique_ptr<Communicator> host, Device device, std::string group);
  ~StagedCommunicator() override;

  std::unique_ptr<Communicator> split(int color) override;
  void interrupt() override { host().interrupt(); }

 private:
  class Staging;
  class Operation;

  Pending post(const Collective& asked, Stream& stream) override;
  Pending post_all_to_all(const Collective& asked, Stream& stream);
  void finish_posted() override {}  // the host's barrier comes behind what was posted
  void close() override {}

  std::shared_ptr<Staging> staging_;
};

}  // namespace polymoe
