// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/device_communicator.h"

#include "parallel/communication/collective_arguments.h"
#include "runtime/copy.h"

namespace polymoe {

std::string DeviceCommunicator::place(const char* operation) const {
  return place_of(operation, group_, rank(), size());
}

std::string DeviceCommunicator::begin(const char* operation) const {
  if (closed_) throw InvalidArgument(place(operation) + "used after shutdown");
  check();
  return place(operation);
}

Pending DeviceCommunicator::start_all_reduce(Tensor values, Reduction reduction, Stream& stream) {
  if (!here(values)) {
    return on_host([&](auto& host) { return host.start_all_reduce(values, reduction, stream); });
  }
  check_reducible(begin("all_reduce"), values.dtype(), Reducible::reals_and_integers);
  if (size() == 1 || values.elements() == 0) return {};
  return post_all_reduce(values, reduction, stream);
}

Pending DeviceCommunicator::start_reduce_scatter(Tensor values, Stream& stream) {
  if (!here(values)) {
    return on_host([&](auto& host) { return host.start_reduce_scatter(values, stream); });
  }
  const std::string place = begin("reduce_scatter");
  check_reducible(place, values.dtype(), Reducible::reals);
  check_slices(place, values, size());
  if (size() == 1 || values.elements() == 0) return {};
  return post_reduce_scatter(values, stream);
}

Pending DeviceCommunicator::start_all_gather(Tensor values, Stream& stream) {
  if (!here(values)) {
    return on_host([&](auto& host) { return host.start_all_gather(values, stream); });
  }
  check_slices(begin("all_gather"), values, size());
  if (size() == 1 || values.elements() == 0) return {};
  return post_all_gather(values, stream);
}

Pending DeviceCommunicator::start_all_to_all(const Tensor& send,
                                             std::span<const std::int64_t> send_rows,
                                             Tensor receive,
                                             std::span<const std::int64_t> receive_rows,
                                             Stream& stream) {
  if (!here(send) || !here(receive)) {
    return on_host([&](auto& host) {
      return host.start_all_to_all(send, send_rows, receive, receive_rows, stream);
    });
  }
  check_all_to_all(begin("all_to_all"), send, send_rows, receive, receive_rows, rank(), size());
  if (size() == 1) {
    copy(send.rows(0, send_rows[0]), receive.rows(0, receive_rows[0]), stream);
    return {};
  }
  return post_all_to_all(send, send_rows, receive, receive_rows, stream);
}

Pending DeviceCommunicator::start_exchange(std::span<const PeerRows> send,
                                           std::span<const PeerRows> receive, Stream& stream) {
  return on_host([&](auto& host) { return host.start_exchange(send, receive, stream); });
}

Pending DeviceCommunicator::start_broadcast(Tensor values, int root, Stream& stream) {
  if (!here(values)) {
    return on_host([&](auto& host) { return host.start_broadcast(values, root, stream); });
  }
  check_root(begin("broadcast"), root, size());
  if (size() == 1 || values.elements() == 0) return {};
  return post_broadcast(values, root, stream);
}

// Blocking: the host's communicator has a shorter way than to post and wait.

void DeviceCommunicator::all_reduce(Tensor values, Reduction reduction, Stream& stream) {
  if (here(values)) return start_all_reduce(values, reduction, stream).wait(stream);
  on_host([&](auto& host) { host.all_reduce(values, reduction, stream); });
}

void DeviceCommunicator::reduce_scatter(Tensor values, Stream& stream) {
  if (here(values)) return start_reduce_scatter(values, stream).wait(stream);
  on_host([&](auto& host) { host.reduce_scatter(values, stream); });
}

void DeviceCommunicator::all_gather(Tensor values, Stream& stream) {
  if (here(values)) return start_all_gather(values, stream).wait(stream);
  on_host([&](auto& host) { host.all_gather(values, stream); });
}

void DeviceCommunicator::all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                                    Tensor receive, std::span<const std::int64_t> receive_rows,
                                    Stream& stream) {
  if (here(send) && here(receive)) {
    return start_all_to_all(send, send_rows, receive, receive_rows, stream).wait(stream);
  }
  on_host([&](auto& host) { host.all_to_all(send, send_rows, receive, receive_rows, stream); });
}

void DeviceCommunicator::exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive,
                                  Stream& stream) {
  on_host([&](auto& host) { host.exchange(send, receive, stream); });
}

void DeviceCommunicator::broadcast(Tensor values, int root, Stream& stream) {
  if (here(values)) return start_broadcast(values, root, stream).wait(stream);
  on_host([&](auto& host) { host.broadcast(values, root, stream); });
}

void DeviceCommunicator::barrier() {
  begin("barrier");
  finish_posted();
  on_host([](auto& host) { host.barrier(); });
}

void DeviceCommunicator::all_to_all_counts(std::span<const std::int64_t> send,
                                           std::span<std::int64_t> receive) {
  on_host([&](auto& host) { host.all_to_all_counts(send, receive); });
}

void DeviceCommunicator::shutdown() {
  if (closed_) return;
  barrier();
  close();
  host_->shutdown();
  closed_ = true;
}

}  // namespace polymoe
