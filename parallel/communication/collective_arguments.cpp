// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/collective_arguments.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "parallel/communication/collective.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

void check_rows(const std::string& place, const char* which, const Tensor& tensor,
                std::span<const std::int64_t> rows, int ranks) {
  const std::string subject = place + std::string(which) + "_rows ";
  if (rows.size() != static_cast<std::size_t>(ranks)) {
    throw InvalidArgument(subject + "has " + std::to_string(rows.size()) + " entries for " +
                          std::to_string(ranks) + " ranks");
  }
  std::int64_t sum = 0;
  for (const std::int64_t count : rows) {
    if (count < 0) throw InvalidArgument(subject + "has the entry " + std::to_string(count));
    sum += count;
  }
  if (tensor.shape().rank() == 0 || sum > tensor.dim(0)) {
    throw InvalidArgument(subject + "sums to " + std::to_string(sum) + " rows, the tensor has " +
                          to_string(tensor.shape()));
  }
}

void check_reducible(const std::string& place, DType dtype, bool integers) {
  if (dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16) return;
  if (integers && dtype == DType::i64) return;
  throw InvalidArgument(place + "dtype " + name_of(dtype) + "; allowed are f32, f64, bf16" +
                        (integers ? ", i64" : ""));
}

void check_slices(const std::string& place, const Tensor& values, int ranks) {
  if (values.elements() % ranks == 0) return;
  throw InvalidArgument(place + std::to_string(values.elements()) +
                        " elements do not divide into " + std::to_string(ranks) + " equal slices");
}

void check_all_to_all(const std::string& place, const Collective& operation, int rank, int ranks) {
  const Tensor& send = operation.values;
  const Tensor& receive = operation.receive;
  check_rows(place, "send", send, operation.send_rows, ranks);
  check_rows(place, "receive", receive, operation.receive_rows, ranks);
  if (send.dtype() != receive.dtype() ||
      send.shape().with_first(1).elements() != receive.shape().with_first(1).elements()) {
    throw InvalidArgument(place + "rows to send are " + name_of(send.dtype()) +
                          to_string(send.shape()) + ", rows to receive " +
                          name_of(receive.dtype()) + to_string(receive.shape()));
  }
  const auto self = static_cast<std::size_t>(rank);
  const std::int64_t sent = operation.send_rows[self], received = operation.receive_rows[self];
  if (sent != received) {
    throw InvalidArgument(place + "this rank sends itself " + std::to_string(sent) +
                          " rows and receives " + std::to_string(received));
  }
}

void check_peer(const std::string& place, int peer, int rank, int ranks) {
  if (peer >= 0 && peer < ranks && peer != rank) return;
  throw InvalidArgument(place + "peer " + std::to_string(peer) + " is not another rank in [0, " +
                        std::to_string(ranks) + ")");
}

void check_root(const std::string& place, int root, int ranks) {
  if (root >= 0 && root < ranks) return;
  throw InvalidArgument(place + "root " + std::to_string(root) + " is not in [0, " +
                        std::to_string(ranks) + ")");
}

}  // namespace

std::string place_of(const char* operation, const std::string& group, int rank, int size) {
  return std::string(operation) + " in group " + group + " (rank " + std::to_string(rank) + " of " +
         std::to_string(size) + "): ";
}

const char* name_of(Collective::Kind kind) {
  switch (kind) {
    case Collective::Kind::all_reduce:
      return "all_reduce";
    case Collective::Kind::reduce_scatter:
      return "reduce_scatter";
    case Collective::Kind::all_gather:
      return "all_gather";
    case Collective::Kind::all_to_all:
      return "all_to_all";
    case Collective::Kind::exchange:
      return "exchange";
    case Collective::Kind::broadcast:
      return "broadcast";
  }
  return "?";
}

void check_arguments(const std::string& place, const Collective& operation, int rank, int ranks) {
  switch (operation.kind) {
    case Collective::Kind::all_reduce:
      return check_reducible(place, operation.values.dtype(), true);
    case Collective::Kind::reduce_scatter:
      check_reducible(place, operation.values.dtype(), false);
      return check_slices(place, operation.values, ranks);
    case Collective::Kind::all_gather:
      return check_slices(place, operation.values, ranks);
    case Collective::Kind::all_to_all:
      return check_all_to_all(place, operation, rank, ranks);
    case Collective::Kind::exchange:
      for (const auto pieces : {operation.send_pieces, operation.receive_pieces})
        for (const PeerRows& piece : pieces) check_peer(place, piece.peer, rank, ranks);
      return;
    case Collective::Kind::broadcast:
      return check_root(place, operation.root, ranks);
  }
}

}  // namespace polymoe
