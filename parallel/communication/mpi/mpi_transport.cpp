// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/mpi/mpi_transport.h"

#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communication/mpi/check.h"
#include "parallel/communication/transport.h"
#include "runtime/error.h"

namespace polymoe::mpi {
namespace {

constexpr std::size_t largest_message = std::size_t{1} << 30;  // MPI counts in int
constexpr int tags = 32768;                                    // every MPI has as many

/// How a thread passes the time between two looks at its messages: at first it looks again at once;
/// then, where it is all that its rank does, it offers the core to others after each look; then it
/// sleeps. A background thread sleeps early, for its rank computes meanwhile. Sleeping beats longer
/// offering: who wakes up runs at once, who offered its core comes last.
class Backoff {
 public:
  explicit Backoff(bool background) : background_(background) {}

  void pause() {
    using std::chrono::microseconds;
    if (++looks_ < 50) return;
    const auto now = std::chrono::steady_clock::now();
    if (looks_ == 50) start_ = now;
    const microseconds patience(background_ ? 20 : 200);
    if (sleep_.count() == 0 && now - start_ < patience) {
      sched_yield();
      return;
    }
    if (sleep_.count() == 0) prctl(PR_SET_TIMERSLACK, 1000UL);  // by default 50 microseconds
    sleep_ = std::clamp(2 * sleep_, microseconds(10), microseconds(200));
    std::this_thread::sleep_for(sleep_);
  }

 private:
  bool background_;
  int looks_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::microseconds sleep_{0};
};

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(MPI_Comm communicator) : communicator_(communicator) {
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  }
  // MPI_Comm_free is collective; without close() the communicator is left to the process's end.
  ~MpiTransport() override = default;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming,
                const Deadline& deadline) override {
    // The number of the exchange: what is left of a failed one is never taken for another.
    tag_ = (tag_ + 1) % tags;
    try {
      for (const Incoming& message : incoming) post_receive(message);
      receives_ = requests_.size();
      for (const Outgoing& message : outgoing) post_send(message);
      wait_all(deadline);
    } catch (...) {
      release();
      throw;
    }
    requests_.clear();
    parts_.clear();
  }

  void interrupt() override { interrupted_ = true; }

  std::unique_ptr<Transport> split(std::span<const int> colors) override {
    // MPI wants colors from 0 on: that of a group becomes its first rank.
    const int color = colors[static_cast<std::size_t>(rank_)];
    const auto first = std::find(colors.begin(), colors.end(), color) - colors.begin();
    MPI_Comm group = MPI_COMM_NULL;
    check(MPI_Comm_split(communicator_, static_cast<int>(first), rank_, &group), "MPI_Comm_split");
    return std::make_unique<MpiTransport>(group);
  }

  void close() override { check(MPI_Comm_free(&communicator_), "MPI_Comm_free"); }

 private:
  struct Part {
    int peer;
    int bytes;
  };

  template <class Post>
  void post_parts(int peer, std::size_t bytes, Post post) {
    for (std::size_t begin = 0; begin < bytes; begin += largest_message) {
      const int count = static_cast<int>(std::min(largest_message, bytes - begin));
      requests_.push_back(MPI_REQUEST_NULL);
      parts_.push_back({peer, count});
      post(begin, count, &requests_.back());
    }
  }

  void post_receive(const Incoming& message) {
    post_parts(message.peer, message.bytes,
               [&](std::size_t begin, int count, MPI_Request* request) {
                 check(MPI_Irecv(static_cast<std::byte*>(message.data) + begin, count, MPI_BYTE,
                                 message.peer, tag_, communicator_, request),
                       "MPI_Irecv");
               });
  }

  void post_send(const Outgoing& message) {
    post_parts(message.peer, message.bytes,
               [&](std::size_t begin, int count, MPI_Request* request) {
                 check(MPI_Isend(static_cast<const std::byte*>(message.data) + begin, count,
                                 MPI_BYTE, message.peer, tag_, communicator_, request),
                       "MPI_Isend");
               });
  }

  void wait_all(const Deadline& deadline) {
    statuses_.resize(requests_.size());
    Backoff backoff(deadline.background);
    // Time in which the whole process stood still, as behind Ctrl-Z, does not count.
    constexpr std::chrono::seconds standstill{2};
    Deadline::Clock::time_point last = Deadline::Clock::now(), end = deadline.time;
    while (true) {
      int done = 0;
      const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done,
                                   statuses_.data());
      if (code == MPI_ERR_IN_STATUS) check_statuses();
      check(code, "MPI_Testall");
      if (done != 0) break;
      if (interrupted_) throw CommunicationError("interrupted");
      const auto now = Deadline::Clock::now();
      if (now - last > standstill) end += now - last;
      last = now;
      if (now >= end) throw_timeout(unanswered(), deadline);
      backoff.pause();
    }
    for (std::size_t i = 0; i < receives_; ++i) {
      int bytes = 0;
      check(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes), "MPI_Get_count");
      if (bytes != parts_[i].bytes) {
        throw CommunicationError("rank " + std::to_string(parts_[i].peer) + " sent " +
                                 std::to_string(bytes) + " bytes where " +
                                 std::to_string(parts_[i].bytes) + " are expected");
      }
    }
  }

  void check_statuses() {
    for (std::size_t i = 0; i < statuses_.size(); ++i) {
      const int code = statuses_[i].MPI_ERROR;
      if (code == MPI_SUCCESS || code == MPI_ERR_PENDING) continue;
      const std::string call = "message " + std::string(i < receives_ ? "from" : "to") + " rank " +
                               std::to_string(parts_[i].peer);
      check(code, call.c_str());
    }
  }

  /// The peer of the first message that is not through.
  int unanswered() {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      int done = 0;
      check(MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done == 0) return parts_[i].peer;
    }
    return rank_;
  }

  /// Forgets what is under way after an error; the group is of no more use.
  void release() {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      if (i < receives_) MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
    requests_.clear();
    parts_.clear();
  }

  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
  int tag_ = 0;
  std::atomic<bool> interrupted_ = false;
  std::vector<MPI_Request> requests_;  // receives first
  std::vector<Part> parts_;            // what each request is for
  std::size_t receives_ = 0;
  std::vector<MPI_Status> statuses_;
};

}  // namespace

std::unique_ptr<Transport> make_world_transport() {
  MPI_Comm duplicate = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &duplicate), "MPI_Comm_dup");
  return std::make_unique<MpiTransport>(duplicate);
}

}  // namespace polymoe::mpi
