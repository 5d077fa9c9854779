// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/queued_communicator.h"

#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/collective.h"
#include "parallel/communication/collective_arguments.h"
#include "parallel/communication/collectives.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/transport.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

bool is_meta(const Tensor& tensor) { return tensor.device().type == DeviceType::meta; }

/// Every tensor of the operation, for `visit`.
template <class Visit>
void for_each_tensor(const Collective& operation, Visit visit) {
  if (operation.kind == Collective::Kind::exchange) {
    for (const auto pieces : {operation.send_pieces, operation.receive_pieces})
      for (const PeerRows& piece : pieces) visit(piece.rows);
    return;
  }
  visit(operation.values);
  if (operation.kind == Collective::Kind::all_to_all) visit(operation.receive);
}

void check_host(const std::string& where, const Tensor& tensor) {
  const DeviceType type = tensor.device().type;
  if (!tensor.defined() || (type != DeviceType::cpu && type != DeviceType::meta)) {
    throw InvalidArgument(where + "a tensor " +
                          (tensor.defined() ? "on " + name_of(tensor.device()) : "not given") +
                          "; this communicator moves host memory");
  }
}

/// Whether the peers have no part in it.
bool needs_no_peer(const Collective& operation, int ranks) {
  bool on_meta = false;
  for_each_tensor(operation, [&](const Tensor& tensor) { on_meta = on_meta || is_meta(tensor); });
  if (ranks == 1 || on_meta) return true;
  const bool by_rows = operation.kind == Collective::Kind::all_to_all ||
                       operation.kind == Collective::Kind::exchange;
  return !by_rows && operation.values.elements() == 0;  // rows may come where none leave
}

/// What the worker does, with copies of what the spans show.
std::function<void(Collectives&)> work_of(const Collective& operation) {
  const Tensor& values = operation.values;
  switch (operation.kind) {
    case Collective::Kind::all_reduce:
      return [values, reduction = operation.reduction](Collectives& collectives) {
        collectives.all_reduce(values, reduction);
      };
    case Collective::Kind::reduce_scatter:
      return [values](Collectives& collectives) { collectives.reduce_scatter(values); };
    case Collective::Kind::all_gather:
      return [values](Collectives& collectives) { collectives.all_gather(values); };
    case Collective::Kind::all_to_all:
      return [values, receive = operation.receive,
              out = std::vector(operation.send_rows.begin(), operation.send_rows.end()),
              in = std::vector(operation.receive_rows.begin(), operation.receive_rows.end())](
                 Collectives& collectives) { collectives.all_to_all(values, out, receive, in); };
    case Collective::Kind::exchange: {
      std::vector<Outgoing> outgoing;
      std::vector<Incoming> incoming;
      for (const PeerRows& piece : operation.send_pieces)
        outgoing.push_back({piece.peer, piece.rows.raw(), piece.rows.bytes()});
      for (const PeerRows& piece : operation.receive_pieces)
        incoming.push_back({piece.peer, piece.rows.raw(), piece.rows.bytes()});
      return [outgoing = std::move(outgoing), incoming = std::move(incoming)](
                 Collectives& collectives) { collectives.exchange(outgoing, incoming); };
    }
    case Collective::Kind::broadcast:
      return [values, root = operation.root](Collectives& collectives) {
        collectives.broadcast(values, root);
      };
  }
  throw InvalidArgument("an unknown collective operation");
}

}  // namespace

/// Where a waiting thread and the worker meet.
class QueuedCommunicator::Posted final : public Pending::State {
 public:
  void wait(Stream&) override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return done_; });
    if (failure_) throw CommunicationError(*failure_);
  }
  void complete(std::optional<std::string> failure) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    done_ = true;
    finished_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable finished_;
  bool done_ = false;
  std::optional<std::string> failure_;
};

QueuedCommunicator::QueuedCommunicator(std::unique_ptr<Transport> transport, Options options)
    : transport_(std::move(transport)), options_(std::move(options)) {
  if (options_.ledger != nullptr && size() > 1)
    ledger_ = options_.ledger->add_group(options_.group);
}

QueuedCommunicator::~QueuedCommunicator() {
  transport_->interrupt();
  stop_worker();
}

void QueuedCommunicator::stop_worker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (worker_.joinable()) worker_.join();
  for (Entry& entry : queue_) {
    entry.posted->complete(where(entry.operation.name) + "the communicator was destroyed");
  }
  queue_.clear();
}

std::string QueuedCommunicator::where(const char* operation) const {
  return place_of(operation, options_.group, rank(), size());
}

void QueuedCommunicator::check_open(const char* operation) const {
  if (closed_) throw InvalidArgument(where(operation) + "used after shutdown");
}

std::optional<std::string> QueuedCommunicator::execute(const Operation& operation,
                                                       bool background) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_) return failure_;
  }
  std::string cause;
  try {
    Deadline deadline(options_.timeout_seconds);
    deadline.background = background;
    Collectives collectives(*transport_, staging_, deadline);
    if (ledger_) ledger_->start(operation.sequence);
    operation.work(collectives);
    if (ledger_) ledger_->finish(operation.sequence);
    return std::nullopt;
  } catch (const std::exception& error) {
    cause = error.what();
  }
  const std::lock_guard lock(mutex_);
  failure_ = where(operation.name) + cause;
  return failure_;
}

void QueuedCommunicator::work_off_queue() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Entry entry = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    auto failure = execute(entry.operation, true);
    lock.lock();
    busy_ = false;
    entry.posted->complete(std::move(failure));
  }
}

QueuedCommunicator::Operation QueuedCommunicator::make(const Collective& asked,
                                                       const char* name) const {
  const std::string place = where(name);
  for_each_tensor(asked, [&](const Tensor& tensor) { check_host(place, tensor); });
  check_arguments(place, asked, rank(), size());
  if (!needs_no_peer(asked, size())) {
    Operation operation{name, work_of(asked)};
    for_each_tensor(asked, [&](const Tensor& tensor) { operation.bytes += tensor.bytes(); });
    return operation;
  }
  if (asked.kind == Collective::Kind::all_to_all && !is_meta(asked.values) &&
      !is_meta(asked.receive)) {
    const Tensor part = asked.values.rows(0, asked.send_rows[0]);
    if (part.bytes() > 0) std::memcpy(asked.receive.raw(), part.raw(), part.bytes());
  }
  return {name, {}};
}

void QueuedCommunicator::enter_in_ledger(Operation& operation) {
  if (ledger_ && operation.sequence == 0)
    operation.sequence = ledger_->post(operation.name, operation.bytes);
}

Pending QueuedCommunicator::post(Operation operation) {
  check_open(operation.name);
  if (!operation.work) return {};
  enter_in_ledger(operation);
  auto posted = std::make_shared<Posted>();
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({std::move(operation), posted});
    changed_.notify_all();
  }
  if (!worker_.joinable()) worker_ = std::thread([this] { work_off_queue(); });
  return Pending(std::move(posted));
}

void QueuedCommunicator::run(Operation operation) {
  check_open(operation.name);
  if (!operation.work) return;
  enter_in_ledger(operation);
  bool idle = false;
  {
    const std::lock_guard lock(mutex_);
    idle = queue_.empty() && !busy_;
  }
  if (!idle) {
    Stream host(Device::cpu());
    post(std::move(operation)).wait(host);
  } else if (const auto failure = execute(operation, false)) {
    throw CommunicationError(*failure);
  }
}

std::unique_ptr<Communicator> QueuedCommunicator::split(int color) {
  std::vector<std::int64_t> colors(static_cast<std::size_t>(size()), color);
  const std::vector<std::int64_t> send = colors;
  all_to_all_counts(send, colors);  // afterwards every rank is here and knows all colors
  const std::vector<int> narrow(colors.begin(), colors.end());
  Options options = options_;
  options.group.append("/").append(std::to_string(color));
  return std::make_unique<QueuedCommunicator>(transport_->split(narrow), std::move(options));
}

void QueuedCommunicator::shutdown() {
  if (closed_) return;
  barrier();
  stop_worker();
  transport_->close();
  closed_ = true;
}

void QueuedCommunicator::barrier() {
  Operation operation{"barrier", {}};
  if (size() > 1) operation.work = [](Collectives& collectives) { collectives.barrier(); };
  run(std::move(operation));
}

void QueuedCommunicator::all_to_all_counts(std::span<const std::int64_t> send,
                                           std::span<std::int64_t> receive) {
  const auto ranks = static_cast<std::size_t>(size());
  if (send.size() != receive.size() || send.size() % ranks != 0) {
    throw InvalidArgument(where("all_to_all_counts") + std::to_string(send.size()) +
                          " counts to send, " + std::to_string(receive.size()) +
                          " to receive; both must be the same multiple of the group's size");
  }
  const auto rows = static_cast<std::int64_t>(ranks);
  const auto each = static_cast<std::int64_t>(send.size() / ranks);
  const std::vector<std::int64_t> one_row(ranks, 1);
  // A Tensor has no const form; `send` is only read.
  const Tensor from(const_cast<std::int64_t*>(send.data()), {rows, each}, DType::i64,
                    Device::cpu());
  const Tensor to(receive.data(), {rows, each}, DType::i64, Device::cpu());
  run(make({.kind = Collective::Kind::all_to_all,
            .values = from,
            .receive = to,
            .send_rows = one_row,
            .receive_rows = one_row},
           "all_to_all_counts"));
}

Pending QueuedCommunicator::start(const Collective& asked, Stream&) {
  Operation operation = make(asked, name_of(asked.kind));
  if (!asked.blocking) return post(std::move(operation));
  run(std::move(operation));
  return {};
}

}  // namespace polymoe
