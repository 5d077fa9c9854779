// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/local/local_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/communicator.h"
#include "parallel/communication/queued_communicator.h"
#include "parallel/communication/transport.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// A message in the sender's memory, from where the receiver copies it.
struct Message {
  enum class Status { offered, copying, done };
  const void* data = nullptr;
  std::size_t bytes = 0;
  Status status = Status::offered;
};

/// What the ranks of one group share.
struct LocalGroup {
  explicit LocalGroup(std::size_t ranks) : channels(ranks * ranks), left(ranks, false) {}

  std::mutex mutex;  // guards everything here, statuses of messages included
  std::condition_variable changed;
  std::vector<std::deque<Message*>> channels;  // [sender * ranks + receiver]
  std::vector<bool> left;
  /// Groups being formed: (number of the split, color) -> group and ranks still to join.
  std::map<std::pair<int, int>, std::pair<std::shared_ptr<LocalGroup>, std::ptrdiff_t>> forming;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<LocalGroup> group, int rank, int size)
      : group_(std::move(group)), rank_(rank), size_(size) {}
  ~LocalTransport() override { close(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming,
                const Deadline& deadline) override {
    std::vector<Message> messages(outgoing.size());
    std::unique_lock lock(group_->mutex);
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
      messages[i].data = outgoing[i].data;
      messages[i].bytes = outgoing[i].bytes;
      if (messages[i].bytes > 0) channel(rank_, outgoing[i].peer).push_back(&messages[i]);
    }
    group_->changed.notify_all();
    try {
      for (const Incoming& wanted : incoming) {
        if (wanted.bytes > 0) receive(wanted, lock, deadline);
      }
      for (std::size_t i = 0; i < outgoing.size(); ++i) {
        if (messages[i].bytes == 0) continue;
        wait_for(outgoing[i].peer, lock, deadline,
                 [&] { return messages[i].status == Message::Status::done; });
      }
    } catch (...) {
      withdraw(outgoing, messages, lock);
      throw;
    }
  }

  void interrupt() override {
    const std::lock_guard lock(group_->mutex);
    interrupted_ = true;
    group_->changed.notify_all();
  }

  std::unique_ptr<Transport> split(std::span<const int> colors) override {
    const int color = colors[static_cast<std::size_t>(rank_)];
    const auto members = std::count(colors.begin(), colors.end(), color);
    const auto before = std::count(colors.begin(), colors.begin() + rank_, color);
    const std::lock_guard lock(group_->mutex);
    const std::pair key(splits_++, color);
    auto& [group, missing] = group_->forming[key];
    if (group == nullptr) {
      group = std::make_shared<LocalGroup>(static_cast<std::size_t>(members));
      missing = members;
    }
    auto transport = std::make_unique<LocalTransport>(group, static_cast<int>(before),
                                                      static_cast<int>(members));
    if (--missing == 0) group_->forming.erase(key);
    return transport;
  }

  void close() override {
    const std::lock_guard lock(group_->mutex);
    group_->left[static_cast<std::size_t>(rank_)] = true;
    group_->changed.notify_all();
  }

 private:
  std::deque<Message*>& channel(int sender, int receiver) {
    return group_->channels[static_cast<std::size_t>(sender * size_ + receiver)];
  }

  template <class Condition>
  void wait_for(int peer, std::unique_lock<std::mutex>& lock, const Deadline& deadline,
                Condition condition) {
    const auto left = [&] { return group_->left[static_cast<std::size_t>(peer)]; };
    const bool woken = group_->changed.wait_until(
        lock, deadline.time, [&] { return condition() || left() || interrupted_; });
    if (condition()) return;
    if (interrupted_) throw CommunicationError("interrupted");
    if (left()) throw CommunicationError("rank " + std::to_string(peer) + " has left the group");
    if (!woken) throw_timeout(peer, deadline);
  }

  void receive(const Incoming& wanted, std::unique_lock<std::mutex>& lock,
               const Deadline& deadline) {
    auto& offers = channel(wanted.peer, rank_);
    wait_for(wanted.peer, lock, deadline, [&] { return !offers.empty(); });
    Message* const message = offers.front();
    if (message->bytes != wanted.bytes) {
      throw CommunicationError("rank " + std::to_string(wanted.peer) + " sent " +
                               std::to_string(message->bytes) + " bytes where " +
                               std::to_string(wanted.bytes) + " are expected");
    }
    offers.pop_front();
    message->status = Message::Status::copying;
    lock.unlock();
    std::memcpy(wanted.data, message->data, wanted.bytes);
    lock.lock();
    message->status = Message::Status::done;
    group_->changed.notify_all();
  }

  /// Takes back what nobody copied yet: the memory is about to go.
  void withdraw(std::span<const Outgoing> outgoing, std::vector<Message>& messages,
                std::unique_lock<std::mutex>& lock) {
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
      std::erase(channel(rank_, outgoing[i].peer), &messages[i]);
      group_->changed.wait(lock, [&] { return messages[i].status != Message::Status::copying; });
    }
  }

  std::shared_ptr<LocalGroup> group_;
  int rank_;
  int size_;
  int splits_ = 0;
  bool interrupted_ = false;  // guarded by the group's mutex
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size,
                                                                    double timeout_seconds) {
  if (size < 1) throw InvalidArgument("a group of " + std::to_string(size) + " ranks");
  const auto group = std::make_shared<LocalGroup>(static_cast<std::size_t>(size));
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<QueuedCommunicator>(
        std::make_unique<LocalTransport>(group, rank, size),
        QueuedCommunicator::Options{
            .group = "world", .timeout_seconds = timeout_seconds, .ledger = nullptr}));
  }
  return ranks;
}

std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size) {
  return make_local_communicators(size, QueuedCommunicator::Options{}.timeout_seconds);
}

}  // namespace polymoe
