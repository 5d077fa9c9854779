// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/device_communicator.h"

#include <cstdint>
#include <span>
#include <string>

#include "parallel/communication/collective.h"
#include "parallel/communication/collective_arguments.h"
#include "parallel/communication/communicator.h"
#include "runtime/copy.h"
#include "runtime/error.h"
#include "runtime/stream.h"

namespace polymoe {

std::string DeviceCommunicator::place(const char* operation) const {
  return place_of(operation, group_, rank(), size());
}

std::string DeviceCommunicator::begin(const char* operation) const {
  if (closed_) throw InvalidArgument(place(operation) + "used after shutdown");
  check();
  return place(operation);
}

bool DeviceCommunicator::here(const Collective& operation) const {
  switch (operation.kind) {
    case Collective::Kind::exchange:
      return false;
    case Collective::Kind::all_to_all:
      return here(operation.values) && here(operation.receive);
    default:
      return here(operation.values);
  }
}

Pending DeviceCommunicator::start(const Collective& operation, Stream& stream) {
  if (!here(operation)) {
    return on_host([&](auto& host) { return host.start(operation, stream); });
  }
  check_arguments(begin(name_of(operation.kind)), operation, rank(), size());
  const bool by_rows = operation.kind == Collective::Kind::all_to_all;
  if (size() == 1 && by_rows) {
    copy(operation.values.rows(0, operation.send_rows[0]),
         operation.receive.rows(0, operation.receive_rows[0]), stream);
  }
  if (size() == 1 || (!by_rows && operation.values.elements() == 0)) return {};
  return post(operation, stream);
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
