// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "parallel/communication/communicator.h"
#include "parallel/communication/transport.h"
#include "runtime/buffer.h"

namespace polymoe {

/// Bytes that a communicator of `ranks` ranks keeps for the reductions under way, once it has
/// reduced something large; 0 for one rank.
std::size_t staging_bytes(int ranks);

/// The collective operations of Communicator, by pairwise exchange over a transport of at least two
/// ranks. Reductions receive every rank's contribution and combine them in rank order, so that the
/// same inputs give the same bits.
class Collectives {
 public:
  Collectives(Transport& transport, Buffer& staging, const Deadline& deadline)
      : transport_(transport), staging_(staging), deadline_(deadline) {}

  /// Up to 64 KiB: every rank receives and combines all; beyond: slices as in reduce_scatter, then
  /// all-gather of the slices.
  void all_reduce(const Tensor& values, Reduction reduction);
  /// In chunks that fit `staging`, which grows to its final size at the first call.
  void reduce_scatter(const Tensor& values);
  void all_gather(const Tensor& values);
  void all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                  const Tensor& receive, std::span<const std::int64_t> receive_rows);
  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) {
    transport_.exchange(outgoing, incoming, deadline_);
  }
  /// Binomial tree.
  void broadcast(const Tensor& values, int root);
  /// Dissemination.
  void barrier();

 private:
  std::byte* staging(std::size_t bytes);
  void reduce_slices(const Tensor& values, Reduction reduction);
  void gather_slices(const Tensor& values);

  Transport& transport_;
  Buffer& staging_;
  const Deadline& deadline_;
};

}  // namespace polymoe
