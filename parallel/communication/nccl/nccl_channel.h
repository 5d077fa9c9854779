// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/transport.h"

namespace polymoe::nccl {

/// The first loss among communicators that were split from one another, which ends all of them: the
/// device frees nothing of one while an operation of another still runs. Any thread.
class FamilyFailure {
 public:
  void report(const std::string& failure);
  std::optional<std::string> failure() const;
  /// Throws it as a CommunicationError, where there is one.
  void check() const;

 private:
  mutable std::mutex mutex_;
  std::optional<std::string> failure_;
};

/// Events that are used again and again, so that none is made within a step but in the first. Any
/// thread.
class EventPool {
 public:
  ~EventPool();
  cudaEvent_t take();
  void give_back(cudaEvent_t event) noexcept;

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

/// One ncclComm_t, the stream on which its operations happen, and the watchdog that ends it.
///
/// NCCL allows one thread at a time in a communicator, and ncclCommAbort frees it. So every call on
/// it is made under one mutex, and each is short because the communicator is non-blocking: a call
/// that has to wait for peers goes on in a thread of NCCL's, and ncclCommGetAsyncError is polled.
/// Whoever finds a failure takes the communicator out of everybody's reach under the mutex and
/// records why; the watchdog aborts it outside, which may take a while. The watchdog looks every 50
/// ms while something is in flight: for NCCL's own errors, and whether the oldest operation has
/// been running for longer than the timeout. Aborting makes NCCL's kernels return, so that the
/// device's streams go on: what waited for the operation computes on garbage until somebody calls
/// check().
class Channel {
 public:
  struct Options {
    int device = 0;
    int rank = 0;
    int size = 1;
    std::string group;
    double timeout_seconds = 600.0;  // of an operation, from when it begins on the device
    std::shared_ptr<FamilyFailure> family;
    Ledger* ledger = nullptr;  // as group "GROUP (NCCL)"; when operations begin and end there is
                               // what the watchdog sees, some 50 ms later
    std::function<void()> on_failure;  // called by the watchdog
  };
  using Call = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  /// Collective: every rank has the same `id`. Throws CommunicationError when the others do not
  /// come within the timeout.
  Channel(const ncclUniqueId& id, Options options);
  /// Aborts what is in flight; never waits for peers.
  ~Channel();

  /// Puts `call`, an operation on tensors of so many bytes, behind the work on `caller`. Returns
  /// when it is enqueued, which takes peers only where connections have to be made first.
  Pending post(const char* name, std::size_t bytes, Stream& caller, const Call& call);
  /// Blocks until everything posted is done.
  void finish_posted();
  /// Throws the failure, where there is one.
  void check() const;
  void interrupt();
  /// The orderly, collective end, when nothing is in flight.
  void close();

 private:
  class Operation;
  struct DestroyStream {
    void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
  };

  std::string place(const char* operation) const;
  std::string no_answer() const;
  /// Waits until NCCL has taken what a call that returned `result` asked for.
  void settle(const char* operation, ncclResult_t result);
  void watch();

  // With the mutex held.
  void check_locked() const;
  void fail(const std::string& failure, bool of_family);
  void retire();
  void inspect();

  const Options options_;
  std::unique_ptr<CUstream_st, DestroyStream> stream_;
  std::shared_ptr<EventPool> events_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  ncclComm_t communicator_ = nullptr;  // null once it failed or closed
  ncclComm_t doomed_ = nullptr;        // to be aborted by the watchdog
  std::deque<std::shared_ptr<Operation>> in_flight_;
  std::optional<Ledger::Group> ledger_;
  std::optional<std::string> failure_;
  bool stopping_ = false;

  std::thread watchdog_;
};

}  // namespace polymoe::nccl
