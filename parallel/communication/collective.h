// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "runtime/tensor.h"

namespace polymoe {

enum class Reduction : std::uint8_t { sum, max };

/// Consecutive rows for a peer, or room for rows from one.
struct PeerRows {
  int peer;
  Tensor rows;
};

/// One operation of a group as data: what a communicator is asked to do, by whichever of its
/// functions. Spans are read before start() returns.
struct Collective {
  enum class Kind : std::uint8_t {
    all_reduce,
    reduce_scatter,
    all_gather,
    all_to_all,
    exchange,
    broadcast
  };

  Kind kind;
  bool blocking = false;  // the caller waits at once, so it may as well run on its thread
  Tensor values = {};     // in place; of all_to_all what is sent
  Reduction reduction = Reduction::sum;  // of all_reduce
  int root = 0;                          // of broadcast
  // What all_to_all takes:
  Tensor receive = {};
  std::span<const std::int64_t> send_rows = {};
  std::span<const std::int64_t> receive_rows = {};
  // What exchange takes:
  std::span<const PeerRows> send_pieces = {};
  std::span<const PeerRows> receive_pieces = {};
};

/// "all_reduce".
const char* name_of(Collective::Kind kind);

}  // namespace polymoe
