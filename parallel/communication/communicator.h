// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "parallel/communication/collective.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

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

/// A group of ranks and its collective operations. Every rank of the group calls the same
/// operations in the same order; zero rows are normal and still take part. Sums have a fixed order,
/// that of the ranks in host memory: the same inputs give the same bits on every run of one layout.
///
/// start_X posts the operation behind the work on `stream` and returns; it progresses in the
/// background. X alone is the same and waits. Operations of one communicator happen in the order
/// they were posted. Errors: InvalidArgument on mismatched sizes that one rank can see,
/// CommunicationError when a peer is lost or the timeout passes.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Posts a collective operation behind the work on `stream`. Every operation below comes here.
  /// With `blocking` it may be done on return.
  virtual Pending start(const Collective& operation, Stream& stream) = 0;

  /// values = reduction of all ranks' values, in place, on every rank. f32, f64, bf16, i64;
  /// a sum in bf16 is of f32 and rounded once, with NCCL at every rank on its way.
  Pending start_all_reduce(Tensor values, Reduction reduction, Stream& stream) {
    return start(all_reduce_of(values, reduction), stream);
  }
  void all_reduce(Tensor values, Reduction reduction, Stream& stream) {
    run(all_reduce_of(values, reduction), stream);
  }

  /// In place: of the `size` equal slices of values, slice `rank` becomes its sum over ranks; the
  /// others are unspecified afterwards. f32, f64, bf16 as there. values.elements() is a multiple of
  /// size.
  /// Cost per rank: (P-1)/P * bytes sent and received.
  Pending start_reduce_scatter(Tensor values, Stream& stream) {
    return start({.kind = Collective::Kind::reduce_scatter, .values = values}, stream);
  }
  void reduce_scatter(Tensor values, Stream& stream) {
    run({.kind = Collective::Kind::reduce_scatter, .values = values}, stream);
  }

  /// In place: this rank contributes slice `rank` of the `size` equal slices and receives the
  /// others. Any dtype.
  Pending start_all_gather(Tensor values, Stream& stream) {
    return start({.kind = Collective::Kind::all_gather, .values = values}, stream);
  }
  void all_gather(Tensor values, Stream& stream) {
    run({.kind = Collective::Kind::all_gather, .values = values}, stream);
  }

  /// Sends send_rows[p] consecutive rows to each rank p and receives receive_rows[p] from it, both
  /// in rank order. Rows of any dtype and equal width; send and receive do not overlap. Fewer rows
  /// than the tensors have are allowed: the rest is neither sent nor written.
  /// The counts must match across ranks (exchange them first, with all_to_all_counts).
  Pending start_all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                           Tensor receive, std::span<const std::int64_t> receive_rows,
                           Stream& stream) {
    return start(all_to_all_of(send, send_rows, receive, receive_rows), stream);
  }
  void all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows, Tensor receive,
                  std::span<const std::int64_t> receive_rows, Stream& stream) {
    run(all_to_all_of(send, send_rows, receive, receive_rows), stream);
  }

  /// Sends each of `send` to its peer and fills each of `receive` from its peer: several pieces for
  /// one peer arrive in the order given, piece by piece of the same size on both sides. Pieces of
  /// any dtypes and widths; none is for this rank itself. Host memory only.
  Pending start_exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive,
                         Stream& stream) {
    return start(exchange_of(send, receive), stream);
  }
  void exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive, Stream& stream) {
    run(exchange_of(send, receive), stream);
  }

  /// values of `root` to all ranks, in place. Any dtype.
  Pending start_broadcast(Tensor values, int root, Stream& stream) {
    return start({.kind = Collective::Kind::broadcast, .values = values, .root = root}, stream);
  }
  void broadcast(Tensor values, int root, Stream& stream) {
    run({.kind = Collective::Kind::broadcast, .values = values, .root = root}, stream);
  }

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

 private:
  void run(Collective operation, Stream& stream) {
    operation.blocking = true;
    start(operation, stream).wait(stream);
  }
  static Collective all_reduce_of(const Tensor& values, Reduction reduction) {
    return {.kind = Collective::Kind::all_reduce, .values = values, .reduction = reduction};
  }
  static Collective all_to_all_of(const Tensor& send, std::span<const std::int64_t> send_rows,
                                  const Tensor& receive,
                                  std::span<const std::int64_t> receive_rows) {
    return {.kind = Collective::Kind::all_to_all,
            .values = send,
            .receive = receive,
            .send_rows = send_rows,
            .receive_rows = receive_rows};
  }
  static Collective exchange_of(std::span<const PeerRows> send, std::span<const PeerRows> receive) {
    return {.kind = Collective::Kind::exchange, .send_pieces = send, .receive_pieces = receive};
  }
};

}  // namespace polymoe
