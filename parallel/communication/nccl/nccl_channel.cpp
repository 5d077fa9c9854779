// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/nccl/nccl_channel.h"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <utility>

#include "parallel/communication/collective_arguments.h"
#include "parallel/communication/nccl/check.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"

namespace polymoe::nccl {
namespace {

constexpr std::chrono::milliseconds watch_interval(50);

/// A thread between two looks at something that is mostly there within microseconds.
class Patience {
 public:
  void pause() {
    if (++looks_ < 200) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

 private:
  int looks_ = 0;
};

/// cudaEventQuery; "not ready" must not be found as an error by a later kernel launch.
cudaError_t state_of(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

/// On the current device, ahead of its other streams: the peers wait for what happens here.
cudaStream_t make_stream() {
  int least = 0, greatest = 0;
  cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest),
              "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
              "cudaStreamCreateWithPriority");
  return stream;
}

}  // namespace

void FamilyFailure::report(const std::string& failure) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = failure;
}

std::optional<std::string> FamilyFailure::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void FamilyFailure::check() const {
  if (const auto first = failure()) throw CommunicationError(*first);
}

EventPool::~EventPool() {
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

cudaEvent_t EventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  cuda::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const std::lock_guard lock(mutex_);
  free_.reserve(free_.capacity() + 1);  // giving it back never allocates
  return event;
}

void EventPool::give_back(cudaEvent_t event) noexcept {
  const std::lock_guard lock(mutex_);
  free_.push_back(event);
}

/// A posted operation, where the watchdog and who waits for it meet.
class Channel::Operation final : public Pending::State {
 public:
  Operation(const char* of_name, std::shared_ptr<EventPool> events)
      : name(of_name), events_(std::move(events)) {
    begun = events_->take();
    try {
      done = events_->take();
    } catch (...) {
      events_->give_back(begun);
      throw;
    }
  }
  ~Operation() override {
    events_->give_back(begun);
    events_->give_back(done);
  }

  void wait(Stream& stream) override {
    if (stream.native() == nullptr) return wait_on_host();
    check();
    cuda::check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream.native()), done, 0),
                "cudaStreamWaitEvent");
  }

  void wait_on_host() {
    Patience patience;
    while (true) {
      check();
      const cudaError_t state = state_of(done);
      if (state == cudaSuccess) break;
      if (state != cudaErrorNotReady) cuda::check(state, "cudaEventQuery");
      patience.pause();
    }
    check();  // done, or aborted?
  }

  void fail(const std::string& failure) {
    const std::lock_guard lock(mutex_);
    failure_ = failure;
  }

  const char* const name;
  cudaEvent_t begun = nullptr;
  cudaEvent_t done = nullptr;
  std::int64_t sequence = 0;         // in the ledger
  std::optional<Deadline> deadline;  // once it has begun; the watchdog's

 private:
  void check() {
    const std::lock_guard lock(mutex_);
    if (failure_) throw CommunicationError(*failure_);
  }

  std::shared_ptr<EventPool> events_;
  std::mutex mutex_;
  std::optional<std::string> failure_;
};

Channel::Channel(const ncclUniqueId& id, Options options)
    : options_(std::move(options)), events_(std::make_shared<EventPool>()) {
  if (options_.ledger != nullptr) ledger_ = options_.ledger->add_group(options_.group + " (NCCL)");
  cuda::use_device(options_.device);
  stream_.reset(make_stream());
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result =
      ncclCommInitRankConfig(&communicator_, options_.size, id, options_.rank, &config);
  try {
    settle("setup", result);
  } catch (...) {
    if (doomed_ != nullptr) ncclCommAbort(doomed_);
    throw;
  }
  watchdog_ = std::thread([this] { watch(); });
}

Channel::~Channel() {
  {
    const std::lock_guard lock(mutex_);
    retire();
    const bool unfinished = !in_flight_.empty();
    fail(place("communication") + "the communicator was destroyed", unfinished);
    stopping_ = true;
    changed_.notify_all();
  }
  watchdog_.join();
}

std::string Channel::place(const char* operation) const {
  return place_of(operation, options_.group, options_.rank, options_.size);
}

std::string Channel::no_answer() const {
  std::ostringstream text;
  text << "no answer from a peer within " << options_.timeout_seconds << " seconds";
  return text.str();
}

void Channel::check_locked() const {
  if (failure_) throw CommunicationError(*failure_);
}

void Channel::check() const {
  const std::lock_guard lock(mutex_);
  check_locked();
}

Pending Channel::post(const char* name, std::size_t bytes, Stream& caller, const Call& call) {
  if (caller.device() != Device::cuda(options_.device)) {
    throw InvalidArgument(place(name) + "a stream of " + name_of(caller.device()) +
                          " for tensors on " + name_of(Device::cuda(options_.device)));
  }
  cuda::use_device(options_.device);
  auto operation = std::make_shared<Operation>(name, events_);
  // `done` is recorded twice; here for what the caller's stream has done.
  cuda::check(cudaEventRecord(operation->done, static_cast<cudaStream_t>(caller.native())),
              "cudaEventRecord");
  cuda::check(cudaStreamWaitEvent(stream_.get(), operation->done, 0), "cudaStreamWaitEvent");
  cuda::check(cudaEventRecord(operation->begun, stream_.get()), "cudaEventRecord");
  ncclResult_t result = ncclSuccess;
  {
    const std::lock_guard lock(mutex_);
    check_locked();
    if (communicator_ == nullptr) throw CommunicationError(place(name) + "used after its end");
    if (ledger_) operation->sequence = ledger_->post(name, bytes);
    result = call(communicator_, stream_.get());
  }
  settle(name, result);
  cuda::check(cudaEventRecord(operation->done, stream_.get()), "cudaEventRecord");
  {
    const std::lock_guard lock(mutex_);
    check_locked();
    in_flight_.push_back(operation);
    changed_.notify_all();
  }
  return Pending(std::move(operation));
}

void Channel::settle(const char* operation, ncclResult_t result) {
  const Deadline deadline(options_.timeout_seconds);
  Patience patience;
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      check_locked();
      if (result == ncclSuccess || result == ncclInProgress) {
        ncclResult_t state = ncclSuccess;
        result = ncclCommGetAsyncError(communicator_, &state);
        if (result == ncclSuccess) result = state;
      }
      if (result == ncclSuccess) return;
      if (result != ncclInProgress) {
        fail(place(operation) + describe(result, communicator_), true);
      } else if (deadline.passed()) {
        fail(place(operation) + no_answer(), true);
      }
      check_locked();
    }
    patience.pause();
  }
}

void Channel::finish_posted() {
  std::shared_ptr<Operation> last;
  {
    const std::lock_guard lock(mutex_);
    check_locked();
    if (!in_flight_.empty()) last = in_flight_.back();
  }
  if (last != nullptr) last->wait_on_host();
}

void Channel::interrupt() {
  const std::lock_guard lock(mutex_);
  retire();
  const char* const running = in_flight_.empty() ? "communication" : in_flight_.front()->name;
  fail(place(running) + "interrupted", false);
}

void Channel::close() {
  ncclResult_t result = ncclSuccess;
  {
    const std::lock_guard lock(mutex_);
    check_locked();
    if (communicator_ == nullptr) return;
    result = ncclCommFinalize(communicator_);
  }
  settle("shutdown", result);
  const std::lock_guard lock(mutex_);
  check_locked();
  // Finalised by all ranks: what is left to free is this rank's alone.
  nccl::check(ncclCommDestroy(std::exchange(communicator_, nullptr)), "ncclCommDestroy");
}

void Channel::fail(const std::string& failure, bool of_family) {
  if (failure_) return;
  retire();  // what is done already stays good
  failure_ = failure;
  for (const auto& operation : in_flight_) operation->fail(failure);
  in_flight_.clear();
  doomed_ = std::exchange(communicator_, nullptr);
  if (of_family) options_.family->report(failure);
  changed_.notify_all();
}

void Channel::retire() {
  while (!in_flight_.empty() && state_of(in_flight_.front()->done) == cudaSuccess) {
    if (ledger_) ledger_->finish(in_flight_.front()->sequence);
    in_flight_.pop_front();
  }
}

void Channel::inspect() {
  retire();
  if (communicator_ == nullptr) return;
  if (const auto of_relative = options_.family->failure()) return fail(*of_relative, false);
  const char* const oldest = in_flight_.empty() ? "communication" : in_flight_.front()->name;
  ncclResult_t state = ncclSuccess;
  const ncclResult_t result = ncclCommGetAsyncError(communicator_, &state);
  if (result == ncclSuccess && (state == ncclSuccess || state == ncclInProgress)) {
    if (in_flight_.empty()) return;
    Operation& operation = *in_flight_.front();
    const cudaError_t device = state_of(operation.done);
    if (device != cudaSuccess && device != cudaErrorNotReady) {
      fail(place(oldest) + "the device failed: " + cudaGetErrorString(device), true);
    } else if (!operation.deadline && state_of(operation.begun) == cudaSuccess) {
      operation.deadline.emplace(options_.timeout_seconds);
      if (ledger_) ledger_->start(operation.sequence);
    } else if (operation.deadline && operation.deadline->passed()) {
      fail(place(oldest) + no_answer(), true);
    }
    return;
  }
  const ncclResult_t cause = result == ncclSuccess ? state : result;
  fail(place(oldest) + describe(cause, communicator_), true);
}

void Channel::watch() {
  // This thread's; the calls below name no device.
  const cudaError_t usable = cudaSetDevice(options_.device);
  std::unique_lock lock(mutex_);
  if (usable != cudaSuccess) {
    fail(place("watchdog") + "cudaSetDevice: " + cudaGetErrorString(usable), true);
  }
  const auto called = [&] { return stopping_ || doomed_ != nullptr; };
  while (true) {
    if (in_flight_.empty()) {
      changed_.wait(lock, [&] { return called() || !in_flight_.empty(); });
    } else {
      changed_.wait_for(lock, watch_interval, called);
    }
    if (doomed_ != nullptr) {
      ncclComm_t doomed = std::exchange(doomed_, nullptr);
      lock.unlock();
      if (options_.on_failure) options_.on_failure();
      ncclCommAbort(doomed);  // a failure to abort has nobody to tell it to
      lock.lock();
    }
    if (stopping_) return;
    if (!failure_) inspect();
  }
}

}  // namespace polymoe::nccl
