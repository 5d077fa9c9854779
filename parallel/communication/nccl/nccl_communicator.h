// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communication/device_communicator.h"
#include "parallel/communication/ledger.h"

namespace polymoe {

namespace nccl {
class Channel;
class FamilyFailure;
}  // namespace nccl

/// CUDA tensors by NCCL, on a stream of the communicator's own: start_X makes that stream wait for
/// the caller's, wait() makes the caller's wait for it, and the host waits for neither. A group of
/// one rank has no ncclComm_t. Every rank has a GPU of its own.
///
/// Sums: NCCL adds in an order that follows from its algorithm, protocol and channels, which it
/// chooses from the message's size, the topology and its environment variables, never from timing.
/// So two runs of one layout on the same machines with the same library give the same bits; another
/// NCCL or another cabling may not, nor do they equal the host's sums in rank order. A maximum
/// ignores a NaN where another rank has a number, unlike the host's.
///
/// A lost peer: after the timeout (or at once, where NCCL notices) a watchdog aborts the operation,
/// so that the device's streams go on, and records the failure. From then on every operation and
/// wait() of this communicator and of its relatives by split() throws the same CommunicationError;
/// check() throws it for waits that returned before. interrupt() is the same, this communicator
/// only. See nccl_channel.h. The destructor aborts (never waits for peers, never throws);
/// shutdown() is the orderly end.
class NcclCommunicator final : public DeviceCommunicator {
 public:
  struct Options {
    std::string group = "world";     // its name in error messages
    double timeout_seconds = 600.0;  // per operation, from when its turn comes on the device
    std::shared_ptr<nccl::FamilyFailure> family;  // made where there is none
    Ledger* ledger = nullptr;  // where operations are written down; null = nowhere
  };

  /// Collective: rank 0 makes NCCL's id and sends it by `host`, a communicator of the same ranks.
  /// Throws CommunicationError when the group cannot be formed within the timeout.
  NcclCommunicator(std::unique_ptr<Communicator> host, Device device, Options options);
  ~NcclCommunicator() override;

  /// By a new id, whatever NCCL's own ncclCommSplit would share.
  std::unique_ptr<Communicator> split(int color) override;
  void interrupt() override;
  void check() const override;

 private:
  Pending post(const Collective& operation, Stream& stream) override;
  Pending post_all_reduce(const Tensor& values, Reduction reduction, Stream& stream);
  Pending post_reduce_scatter(const Tensor& values, Stream& stream);
  Pending post_all_gather(const Tensor& values, Stream& stream);
  Pending post_all_to_all(const Collective& operation, Stream& stream);
  Pending post_broadcast(const Tensor& values, int root, Stream& stream);
  void finish_posted() override;
  void close() override;

  Options options_;
  std::unique_ptr<nccl::Channel> channel_;  // of a group of at least two
};

}  // namespace polymoe
