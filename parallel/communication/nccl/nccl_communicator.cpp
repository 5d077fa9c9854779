// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/nccl/nccl_communicator.h"

#include <nccl.h>

#include <array>
#include <cstring>
#include <vector>

#include "parallel/communication/nccl/check.h"
#include "parallel/communication/nccl/nccl_channel.h"
#include "parallel/communication/nccl/nccl_library.h"
#include "runtime/cuda/check.h"

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 0), "NCCL 2.18 or newer is needed");

namespace polymoe {
namespace {

std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }

ncclDataType_t type_of(DType dtype) {
  if (dtype == DType::f32) return ncclFloat32;
  if (dtype == DType::bf16) return ncclBfloat16;
  return dtype == DType::f64 ? ncclFloat64 : ncclInt64;
}

/// Rank 0's id, or why it has none: then nobody waits for it.
struct IdRecord {
  ncclUniqueId id;
  std::array<char, 256> problem;
};

ncclUniqueId exchange_id(Communicator& host, const std::string& place) {
  IdRecord record{};
  if (host.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&record.id);
    if (result != ncclSuccess) {
      const std::string problem = nccl::describe(result, nullptr);
      problem.copy(record.problem.data(), record.problem.size() - 1);
    }
  }
  Stream stream(Device::cpu());
  host.broadcast({&record, {sizeof(record)}, DType::u8, Device::cpu()}, 0, stream);
  if (record.problem[0] != '\0') {
    throw CommunicationError(place + "rank 0 made no id: " + record.problem.data());
  }
  return record.id;
}

/// The first of two results that is an error.
ncclResult_t worse(ncclResult_t first, ncclResult_t second) {
  return first == ncclSuccess || first == ncclInProgress ? second : first;
}

/// Bytes for a peer, and room for bytes from it.
struct Exchange {
  int peer;
  const std::byte* from;
  std::size_t outgoing;
  std::byte* to;
  std::size_t incoming;
};

/// All messages at once, so that no order among peers can block.
ncclResult_t exchange_all(const std::vector<Exchange>& exchanges, ncclComm_t communicator,
                          cudaStream_t stream) {
  ncclResult_t result = ncclGroupStart();
  if (result != ncclSuccess) return result;
  for (const Exchange& with : exchanges) {
    if (with.outgoing > 0) {
      result = worse(result,
                     ncclSend(with.from, with.outgoing, ncclInt8, with.peer, communicator, stream));
    }
    if (with.incoming > 0) {
      result = worse(result,
                     ncclRecv(with.to, with.incoming, ncclInt8, with.peer, communicator, stream));
    }
  }
  return worse(result, ncclGroupEnd());  // a group is ended also where a part of it failed
}

}  // namespace

NcclCommunicator::NcclCommunicator(std::unique_ptr<Communicator> host, Device device,
                                   Options options)
    : DeviceCommunicator(std::move(host), device, options.group), options_(std::move(options)) {
  if (options_.family == nullptr) options_.family = std::make_shared<nccl::FamilyFailure>();
  if (size() == 1) return;
  const ncclUniqueId id = exchange_id(this->host(), place("setup"));
  Communicator* const by_host = &this->host();
  channel_ = std::make_unique<nccl::Channel>(
      id, nccl::Channel::Options{.device = device.index,
                                 .rank = rank(),
                                 .size = size(),
                                 .group = group(),
                                 .timeout_seconds = options_.timeout_seconds,
                                 .family = options_.family,
                                 .ledger = options_.ledger,
                                 // A host exchange under way waits for the same lost peer.
                                 .on_failure = [by_host] { by_host->interrupt(); }});
}

// The channel ends before the host's communicator, which its watchdog may call.
NcclCommunicator::~NcclCommunicator() = default;

std::unique_ptr<Communicator> NcclCommunicator::split(int color) {
  auto part = on_host([&](auto& host) { return host.split(color); });
  Options options = options_;
  options.group.append("/").append(std::to_string(color));
  return std::make_unique<NcclCommunicator>(std::move(part), device(), std::move(options));
}

void NcclCommunicator::interrupt() {
  if (channel_ != nullptr) channel_->interrupt();
  host().interrupt();
}

void NcclCommunicator::check() const {
  if (channel_ != nullptr) channel_->check();
  options_.family->check();
}

void NcclCommunicator::finish_posted() {
  if (channel_ != nullptr) channel_->finish_posted();
}

void NcclCommunicator::close() {
  if (channel_ != nullptr) channel_->close();
}

Pending NcclCommunicator::post(const Collective& operation, Stream& stream) {
  switch (operation.kind) {
    case Collective::Kind::all_reduce:
      return post_all_reduce(operation.values, operation.reduction, stream);
    case Collective::Kind::reduce_scatter:
      return post_reduce_scatter(operation.values, stream);
    case Collective::Kind::all_gather:
      return post_all_gather(operation.values, stream);
    case Collective::Kind::all_to_all:
      return post_all_to_all(operation, stream);
    case Collective::Kind::broadcast:
      return post_broadcast(operation.values, operation.root, stream);
    case Collective::Kind::exchange:
      break;  // of host memory alone
  }
  throw InvalidArgument(place(name_of(operation.kind)) + "is not for tensors of a GPU");
}

Pending NcclCommunicator::post_all_reduce(const Tensor& values, Reduction reduction,
                                          Stream& stream) {
  return channel_->post(
      "all_reduce", values.bytes(), stream, [&](ncclComm_t communicator, cudaStream_t queue) {
        return ncclAllReduce(values.raw(), values.raw(),
                             static_cast<std::size_t>(values.elements()), type_of(values.dtype()),
                             reduction == Reduction::sum ? ncclSum : ncclMax, communicator, queue);
      });
}

Pending NcclCommunicator::post_reduce_scatter(const Tensor& values, Stream& stream) {
  const std::size_t bytes = values.bytes() / static_cast<std::size_t>(size());
  const std::size_t elements = bytes / size_of(values.dtype());
  std::byte* const own = bytes_of(values) + static_cast<std::size_t>(rank()) * bytes;
  return channel_->post(
      "reduce_scatter", values.bytes(), stream, [&](ncclComm_t communicator, cudaStream_t queue) {
        return ncclReduceScatter(values.raw(), own, elements, type_of(values.dtype()), ncclSum,
                                 communicator, queue);
      });
}

Pending NcclCommunicator::post_all_gather(const Tensor& values, Stream& stream) {
  const std::size_t bytes = values.bytes() / static_cast<std::size_t>(size());
  const std::byte* const own = bytes_of(values) + static_cast<std::size_t>(rank()) * bytes;
  return channel_->post(
      "all_gather", values.bytes(), stream, [&](ncclComm_t communicator, cudaStream_t queue) {
        return ncclAllGather(own, values.raw(), bytes, ncclInt8, communicator, queue);
      });
}

Pending NcclCommunicator::post_all_to_all(const Collective& operation, Stream& stream) {
  const Tensor& send = operation.values;
  const auto row_bytes =
      static_cast<std::size_t>(send.shape().with_first(1).elements()) * size_of(send.dtype());
  const std::byte* from = bytes_of(send);
  std::byte* to = bytes_of(operation.receive);
  std::vector<Exchange> exchanges;
  Exchange own{};
  for (int peer = 0; peer < size(); ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    const std::size_t outgoing = static_cast<std::size_t>(operation.send_rows[p]) * row_bytes;
    const std::size_t incoming = static_cast<std::size_t>(operation.receive_rows[p]) * row_bytes;
    const Exchange with{peer, from, outgoing, to, incoming};
    if (peer == rank()) {
      own = with;
    } else if (outgoing > 0 || incoming > 0) {
      exchanges.push_back(with);
    }
    from += outgoing;
    to += incoming;
  }
  return channel_->post(
      "all_to_all", send.bytes() + operation.receive.bytes(), stream,
      [&](ncclComm_t communicator, cudaStream_t queue) {
        if (own.outgoing > 0) {
          cuda::check(
              cudaMemcpyAsync(own.to, own.from, own.outgoing, cudaMemcpyDeviceToDevice, queue),
              "cudaMemcpyAsync");
        }
        return exchanges.empty() ? ncclSuccess : exchange_all(exchanges, communicator, queue);
      });
}

Pending NcclCommunicator::post_broadcast(const Tensor& values, int root, Stream& stream) {
  return channel_->post("broadcast", values.bytes(), stream,
                        [&](ncclComm_t communicator, cudaStream_t queue) {
                          return ncclBroadcast(values.raw(), values.raw(), values.bytes(), ncclInt8,
                                               root, communicator, queue);
                        });
}

namespace nccl {

bool available() { return true; }

std::string version() {
  int code = 0;
  check(ncclGetVersion(&code), "ncclGetVersion");
  return std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." +
         std::to_string(code % 100);
}

std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Communicator> host, Device device,
                                                const std::string& group, double timeout_seconds,
                                                Ledger* ledger) {
  return std::make_unique<NcclCommunicator>(
      std::move(host), device,
      NcclCommunicator::Options{
          .group = group, .timeout_seconds = timeout_seconds, .family = {}, .ledger = ledger});
}

}  // namespace nccl

}  // namespace polymoe
