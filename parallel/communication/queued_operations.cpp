// SPDX-License-Identifier: Apache-2.0
// The checks of each operation of QueuedCommunicator, made before it is queued.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/collective_arguments.h"
#include "parallel/communication/queued_communicator.h"
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

bool is_meta(const Tensor& tensor) { return tensor.device().type == DeviceType::meta; }

}  // namespace

QueuedCommunicator::Operation QueuedCommunicator::make_all_reduce(const Tensor& values,
                                                                  Reduction reduction) const {
  constexpr const char* name = "all_reduce";
  check_host(where(name), values);
  check_reducible(where(name), values.dtype(), Reducible::reals_and_integers);
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values, reduction](Collectives& collectives) {
            collectives.all_reduce(values, reduction);
          }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_reduce_scatter(const Tensor& values) const {
  constexpr const char* name = "reduce_scatter";
  check_host(where(name), values);
  check_reducible(where(name), values.dtype(), Reducible::reals);
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
  check_all_to_all(place, send, send_rows, receive, receive_rows, rank(), size());
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

QueuedCommunicator::Operation QueuedCommunicator::make_exchange(
    std::span<const PeerRows> send, std::span<const PeerRows> receive) const {
  constexpr const char* name = "exchange";
  const std::string place = where(name);
  bool on_meta = false;
  for (const auto pieces : {send, receive}) {
    for (const PeerRows& piece : pieces) {
      check_peer(place, piece.peer, rank(), size());
      check_host(place, piece.rows);
      on_meta = on_meta || is_meta(piece.rows);
    }
  }
  if (size() == 1 || on_meta) return {name, {}};
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (const PeerRows& piece : send) {
    outgoing.push_back({piece.peer, piece.rows.raw(), piece.rows.bytes()});
  }
  for (const PeerRows& piece : receive) {
    incoming.push_back({piece.peer, piece.rows.raw(), piece.rows.bytes()});
  }
  return {name, [outgoing = std::move(outgoing), incoming = std::move(incoming)](
                    Collectives& collectives) { collectives.exchange(outgoing, incoming); }};
}

QueuedCommunicator::Operation QueuedCommunicator::make_broadcast(const Tensor& values,
                                                                 int root) const {
  constexpr const char* name = "broadcast";
  check_host(where(name), values);
  check_root(where(name), root, size());
  if (size() == 1 || is_meta(values) || values.elements() == 0) return {name, {}};
  return {name, [values, root](Collectives& collectives) { collectives.broadcast(values, root); }};
}

}  // namespace polymoe
