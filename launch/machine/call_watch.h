// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace polymoe {

/// Seconds that a call of MPI which knows no time-out, as they begin and end a run, may wait for
/// the other ranks: POLYMOE_MPI_TIMEOUT of the environment, or 600. Throws InvalidArgument.
double mpi_timeout();

/// Looks on while this process is in such a call. Where it lasts, that is told on stderr after a
/// tenth of the time, and when the time is up the process ends with 75. Time in which the process
/// stood still does not count.
class CallWatch {
 public:
  /// `gives_up` is called when the time is up, to say what else is known.
  CallWatch(int rank, std::string call, double timeout_seconds,
            std::function<void()> gives_up = {});
  ~CallWatch();
  CallWatch(const CallWatch&) = delete;
  CallWatch& operator=(const CallWatch&) = delete;

 private:
  void watch();

  const int rank_;
  const std::string call_;
  const double timeout_seconds_;
  const std::function<void()> gives_up_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable over_;
  bool is_over_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace polymoe
