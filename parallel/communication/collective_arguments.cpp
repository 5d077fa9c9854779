// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/collective_arguments.h"

#include "runtime/error.h"

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

}  // namespace

std::string place_of(const char* operation, const std::string& group, int rank, int size) {
  return std::string(operation) + " in group " + group + " (rank " + std::to_string(rank) + " of " +
         std::to_string(size) + "): ";
}

void check_reducible(const std::string& place, DType dtype, Reducible allowed) {
  const bool integers = allowed == Reducible::reals_and_integers;
  if (dtype == DType::f32 || dtype == DType::f64 || (integers && dtype == DType::i64)) return;
  throw InvalidArgument(place + "dtype " + name_of(dtype) + "; allowed are f32, f64" +
                        (integers ? ", i64" : ""));
}

void check_slices(const std::string& place, const Tensor& values, int ranks) {
  if (values.elements() % ranks == 0) return;
  throw InvalidArgument(place + std::to_string(values.elements()) +
                        " elements do not divide into " + std::to_string(ranks) + " equal slices");
}

void check_all_to_all(const std::string& place, const Tensor& send,
                      std::span<const std::int64_t> send_rows, const Tensor& receive,
                      std::span<const std::int64_t> receive_rows, int rank, int ranks) {
  check_rows(place, "send", send, send_rows, ranks);
  check_rows(place, "receive", receive, receive_rows, ranks);
  if (send.dtype() != receive.dtype() ||
      send.shape().with_first(1).elements() != receive.shape().with_first(1).elements()) {
    throw InvalidArgument(place + "rows to send are " + name_of(send.dtype()) +
                          to_string(send.shape()) + ", rows to receive " +
                          name_of(receive.dtype()) + to_string(receive.shape()));
  }
  const auto self = static_cast<std::size_t>(rank);
  if (send_rows[self] != receive_rows[self]) {
    throw InvalidArgument(place + "this rank sends itself " + std::to_string(send_rows[self]) +
                          " rows and receives " + std::to_string(receive_rows[self]));
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

}  // namespace polymoe
