// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>

namespace polymoe {

/// Until when a transport waits for its peers, and how.
struct Deadline {
  using Clock = std::chrono::steady_clock;

  explicit Deadline(double seconds)
      : timeout_seconds(seconds),
        time(Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))) {}
  bool passed() const { return Clock::now() >= time; }

  double timeout_seconds;
  Clock::time_point time;
  bool background = false;  // the rank computes meanwhile and wants the cores
};

/// Throws the CommunicationError of a deadline that passed while waiting for `peer`.
[[noreturn]] void throw_timeout(int peer, const Deadline& deadline);

/// Bytes for a peer, and room for bytes from one.
struct Outgoing {
  int peer;
  const void* data;
  std::size_t bytes;
};
struct Incoming {
  int peer;
  void* data;
  std::size_t bytes;
};

/// Moves host memory between the ranks of one group: the one primitive under every collective
/// operation. One thread at a time uses it, interrupt() apart.
class Transport {
 public:
  /// Never waits for peers.
  virtual ~Transport() = default;
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Sends and receives all messages and returns when all are done. Between two ranks they match in
  /// the order given, each of the same size on both sides; a message of zero bytes is not sent.
  /// Every rank calls exchange the same number of times, with empty lists where it has no part.
  /// Throws CommunicationError when a peer is lost, on interrupt() and at the deadline.
  virtual void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming,
                        const Deadline& deadline) = 0;

  /// Makes the exchange under way, and later ones, throw. Any thread may call it.
  virtual void interrupt() = 0;

  /// The ranks whose entry in `colors` equals this rank's, ordered by rank. Collective; every rank
  /// gives the same colors.
  virtual std::unique_ptr<Transport> split(std::span<const int> colors) = 0;

  /// The orderly end. Collective.
  virtual void close() = 0;
};

}  // namespace polymoe
