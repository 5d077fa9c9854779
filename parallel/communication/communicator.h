// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

enum class Reduction : std::uint8_t { sum, max };

/// A collective operation under way. Its tensors must stay alive and untouched until wait()
/// returned. Destroying it without waiting abandons the result; it never blocks.
class Pending {
 public:
  class State {
   public:
    virtual ~State() = default;
    /// Orders the result before later work on `stream`; on the CPU, blocks until it is there.
    virtual void wait(Stream& stream) = 0;
  };

  Pending() = default;  // already done
  explicit Pending(std::shared_ptr<State> state) : state_(std::move(state)) {}
  /// Throws CommunicationError when a peer was lost. A second wait returns at once.
  void wait(Stream& stream) {
    if (auto state = std::move(state_)) state->wait(stream);
  }

 private:
  std::shared_ptr<State> state_;
};

/// Consecutive rows for a peer, or room for rows from one.
struct PeerRows {
  int peer;
  Tensor rows;
};

/// A group of ranks and its collective operations. Every rank of the group calls the same
/// operations in the same order; zero rows are normal and still take part. Sums have a fixed order,
/// that of the ranks in host memory: the same inputs give the same bits on every run of one layout.
///
/// start_X posts the operation behind the work on `stream` and returns; it progresses in the
/// background. Operations of one communicator happen in the order they were posted.
/// Errors: InvalidArgument on mismatched sizes that one rank can see, CommunicationError when a
/// peer is lost or the timeout passes.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// values = reduction of all ranks' values, in place, on every rank. f32, f64, i64.
  virtual Pending start_all_reduce(Tensor values, Reduction reduction, Stream& stream) = 0;

  /// In place: of the `size` equal slices of values, slice `rank` becomes its sum over ranks; the
  /// others are unspecified afterwards. f32, f64. values.elements() is a multiple of size.
  /// Cost per rank: (P-1)/P * bytes sent and received.
  virtual Pending start_reduce_scatter(Tensor values, Stream& stream) = 0;

  /// In place: this rank contributes slice `rank` of the `size` equal slices and receives the
  /// others. Any dtype.
  virtual Pending start_all_gather(Tensor values, Stream& stream) = 0;

  /// Sends send_rows[p] consecutive rows to each rank p and receives receive_rows[p] from it, both
  /// in rank order. Rows of any dtype and equal width; send and receive do not overlap.
  /// The counts must match across ranks (exchange them first, with all_to_all_counts).
  virtual Pending start_all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                                   Tensor receive, std::span<const std::int64_t> receive_rows,
                                   Stream& stream) = 0;

  /// Sends each of `send` to its peer and fills each of `receive` from its peer: several pieces for
  /// one peer arrive in the order given, piece by piece of the same size on both sides. Pieces of
  /// any dtypes and widths; none is for this rank itself. Host memory only.
  virtual Pending start_exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive,
                                 Stream& stream) = 0;

  /// values of `root` to all ranks, in place. Any dtype.
  virtual Pending start_broadcast(Tensor values, int root, Stream& stream) = 0;

  /// Returns when every rank called it.
  virtual void barrier() = 0;

  /// Each rank sends send[p * n .. (p + 1) * n) to rank p and receives the like: host counts, n =
  /// send.size() / size(). Blocking.
  virtual void all_to_all_counts(std::span<const std::int64_t> send,
                                 std::span<std::int64_t> receive) = 0;

  /// New communicator of the ranks that gave the same color, ordered by rank. Collective.
  virtual std::unique_ptr<Communicator> split(int color) = 0;

  /// Makes the operation under way on this rank, and later ones, throw CommunicationError. Any
  /// thread may call it.
  virtual void interrupt() = 0;

  /// Throws the CommunicationError of an operation that failed after its wait() returned. On a GPU
  /// wait() only orders the device's work, so a loss may come to light later; then the operation
  /// ends on the device and its result is garbage. Whoever synchronised a stream calls this before
  /// trusting what it computed. Covers the groups that were split from this one too.
  virtual void check() const {}

  /// The orderly, collective end. The destructor never waits for peers.
  virtual void shutdown() = 0;

  // Blocking forms; a communicator may have a shorter way for them.
  virtual void all_reduce(Tensor values, Reduction reduction, Stream& stream) {
    start_all_reduce(values, reduction, stream).wait(stream);
  }
  virtual void reduce_scatter(Tensor values, Stream& stream) {
    start_reduce_scatter(values, stream).wait(stream);
  }
  virtual void all_gather(Tensor values, Stream& stream) {
    start_all_gather(values, stream).wait(stream);
  }
  virtual void all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                          Tensor receive, std::span<const std::int64_t> receive_rows,
                          Stream& stream) {
    start_all_to_all(send, send_rows, receive, receive_rows, stream).wait(stream);
  }
  virtual void exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive,
                        Stream& stream) {
    start_exchange(send, receive, stream).wait(stream);
  }
  virtual void broadcast(Tensor values, int root, Stream& stream) {
    start_broadcast(values, root, stream).wait(stream);
  }
};

}  // namespace polymoe
