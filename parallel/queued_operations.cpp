// SPDX-License-Identifier: Apache-2.0
// The checks of each operation of QueuedCommunicator, made before it is queued.
#include <cstring>
#include <string>
#include <vector>

#include "parallel/queued_communicator.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

void check_host(const std::string& where, const Tensor& tensor) {
  const DeviceType type = tensor.device().type;
  if (!tensor.defined() || (type != DeviceType::cpu && type != DeviceType::meta)) {
    throw InvalidArgument(where + "a tensor " +
                          (tensor.defined() ? "on " + name_of(tensor.device()) : "not given") +
                          "; this communicator moves host memory");
  }
}

void check_reducible(const std::string& where, DType dtype, bool integers_too) {
  if (dtype == DType::f32 || dtype == DType::f64 || (integers_too && dtype == DType::i64)) return;
  throw InvalidArgument(where + "dtype " + name_of(dtype) + "; allowed are f32, f64" +
                        (integers_too ? ", i64" : ""));
}

void check_slices(const std::string& where, const Tensor& values, int ranks) {
  if (values.elements() % ranks == 0) return;
  throw InvalidArgument(where + std::to_string(values.elements()) +
                        " elements do not divide into " + std::to_string(ranks) + " equal slices");
}

/// Sum of the rows after checking them.
std::int64_t check_rows(const std::string& where, const char* which, const Tensor& tensor,
                        std::span<const std::int64_t> rows, int ranks) {
  const std::string subject = where + std::string(which) + "_rows ";
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
  return sum;
}

bool is_meta(const Tensor& tensor) { return tensor.device().type == DeviceType::meta; }

}  // namespace

QueuedCommunicator::Operation QueuedCommunicator::make_all_reduce(const Tensor& values,
                                                                  Reduction reduction) const {
  constexpr const char* name = "all_reduce";
  check_host(where(name), values);
  check_reducible(where(name), values.dtype(), true);
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values, reduction](Collectives& collectives) {
            collectives.all_reduce(values, reduction);
          }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_reduce_scatter(const Tensor& values) const {
  constexpr const char* name = "reduce_scatter";
  check_host(where(name), values);
  check_reducible(where(name), values.dtype(), false);
  check_slices(where(name), values, size());
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values](Collectives& collectives) { collectives.reduce_scatter(values); }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_all_gather(const Tensor& values) const {
  constexpr const char* name = "all_gather";
  check_host(where(name), values);
  check_slices(where(name), values, size());
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values](Collectives& collectives) { collectives.all_gather(values); }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_all_to_all(
    const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& receive,
    std::span<const std::int64_t> receive_rows) const {
  constexpr const char* name = "all_to_all";
  const std::string place = where(name);
  check_host(place, send);
  check_host(place, receive);
  check_rows(place, "send", send, send_rows, size());
  check_rows(place, "receive", receive, receive_rows, size());
  const auto self = static_cast<std::size_t>(rank());
  if (send.dtype() != receive.dtype() ||
      send.shape().with_first(1).elements() != receive.shape().with_first(1).elements()) {
    throw InvalidArgument(place + "rows to send are " + name_of(send.dtype()) +
                          to_string(send.shape()) + ", rows to receive " +
                          name_of(receive.dtype()) + to_string(receive.shape()));
  }
  if (send_rows[self] != receive_rows[self]) {
    throw InvalidArgument(place + "this rank sends itself " + std::to_string(send_rows[self]) +
                          " rows and receives " + std::to_string(receive_rows[self]));
  }
  if (is_meta(send) || is_meta(receive)) return {name, {}};
  if (size() == 1) {
    const Tensor part = send.rows(0, send_rows[0]);
    if (part.bytes() > 0) std::memcpy(receive.raw(), part.raw(), part.bytes());
    return {name, {}};
  }
  return {name, [send, receive, out = std::vector(send_rows.begin(), send_rows.end()),
                 in = std::vector(receive_rows.begin(), receive_rows.end())](
                    Collectives& collectives) { collectives.all_to_all(send, out, receive, in); }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_broadcast(const Tensor& values,
                                                                 int root) const {
  constexpr const char* name = "broadcast";
  check_host(where(name), values);
  if (root < 0 || root >= size()) {
    throw InvalidArgument(where(name) + "root " + std::to_string(root) + " is not in [0, " +
                          std::to_string(size()) + ")");
  }
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values, root](Collectives& collectives) { collectives.broadcast(values, root); }};
}

}  // namespace polymoe
