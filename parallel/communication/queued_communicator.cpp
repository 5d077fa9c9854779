// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/queued_communicator.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "parallel/communication/collective_arguments.h"
#include "runtime/error.h"

namespace polymoe {

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
    : transport_(std::move(transport)), options_(std::move(options)) {}

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
    operation.work(collectives);
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

Pending QueuedCommunicator::post(Operation operation) {
  check_open(operation.name);
  if (!operation.work) return {};
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
  Operation operation = make_all_to_all(from, one_row, to, one_row);
  operation.name = "all_to_all_counts";
  run(std::move(operation));
}

Pending QueuedCommunicator::start_all_reduce(Tensor values, Reduction reduction, Stream&) {
  return post(make_all_reduce(values, reduction));
}
Pending QueuedCommunicator::start_reduce_scatter(Tensor values, Stream&) {
  return post(make_reduce_scatter(values));
}
Pending QueuedCommunicator::start_all_gather(Tensor values, Stream&) {
  return post(make_all_gather(values));
}
Pending QueuedCommunicator::start_all_to_all(const Tensor& send,
                                             std::span<const std::int64_t> send_rows,
                                             Tensor receive,
                                             std::span<const std::int64_t> receive_rows, Stream&) {
  return post(make_all_to_all(send, send_rows, receive, receive_rows));
}
Pending QueuedCommunicator::start_exchange(std::span<const PeerRows> send,
                                           std::span<const PeerRows> receive, Stream&) {
  return post(make_exchange(send, receive));
}
Pending QueuedCommunicator::start_broadcast(Tensor values, int root, Stream&) {
  return post(make_broadcast(values, root));
}

void QueuedCommunicator::all_reduce(Tensor values, Reduction reduction, Stream&) {
  run(make_all_reduce(values, reduction));
}
void QueuedCommunicator::reduce_scatter(Tensor values, Stream&) {
  run(make_reduce_scatter(values));
}
void QueuedCommunicator::all_gather(Tensor values, Stream&) { run(make_all_gather(values)); }
void QueuedCommunicator::all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                                    Tensor receive, std::span<const std::int64_t> receive_rows,
                                    Stream&) {
  run(make_all_to_all(send, send_rows, receive, receive_rows));
}
void QueuedCommunicator::exchange(std::span<const PeerRows> send, std::span<const PeerRows> receive,
                                  Stream&) {
  run(make_exchange(send, receive));
}
void QueuedCommunicator::broadcast(Tensor values, int root, Stream&) {
  run(make_broadcast(values, root));
}

}  // namespace polymoe
