// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/call_watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "launch/machine/exit_code.h"
#include "runtime/error.h"
#include "runtime/system.h"

namespace polymoe {

double mpi_timeout() {
  const char* const text = std::getenv("POLYMOE_MPI_TIMEOUT");
  if (text == nullptr) return 600.0;
  const std::string_view given(text);
  double seconds = 0.0;
  const auto [end, error] = std::from_chars(given.begin(), given.end(), seconds);
  if (error != std::errc() || end != given.end() || !(seconds > 0.0) || seconds > 1e9)
    throw InvalidArgument(
        fmt::format("POLYMOE_MPI_TIMEOUT = {}: must be a number of seconds in (0, 1e9]", given));
  return seconds;
}

CallWatch::CallWatch(int rank, std::string call, double timeout_seconds,
                     std::function<void()> gives_up)
    : rank_(rank),
      call_(std::move(call)),
      timeout_seconds_(timeout_seconds),
      gives_up_(std::move(gives_up)),
      thread_([this] { watch(); }) {}

CallWatch::~CallWatch() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    over_.notify_all();
  }
  thread_.join();
}

void CallWatch::watch() {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds look{200};
  constexpr double standstill = 2.0;  // between two looks
  const auto tell = [&](double seconds, const char* what) {
    const std::string line = fmt::format(
        "polymoe: rank {} on {}: waits in {} since {:.0f} s for ranks that have not come there, or "
        "cannot be reached{}\n",
        rank_, host_name(), call_, seconds, what);
    [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
  };
  double waited = 0.0;
  bool told = false;
  auto last = Clock::now();
  std::unique_lock lock(mutex_);
  while (!over_.wait_for(lock, look, [&] { return is_over_; })) {
    const auto now = Clock::now();
    const double passed = std::chrono::duration<double>(now - last).count();
    if (passed < standstill) waited += passed;
    last = now;
    if (waited >= timeout_seconds_) {
      tell(waited, ": giving up (run.timeout, POLYMOE_MPI_TIMEOUT)");
      if (gives_up_) gives_up_();
      _exit(exit_communication);
    }
    if (!told && waited >= timeout_seconds_ / 10) {
      told = true;
      tell(waited, "");
    }
  }
}

}  // namespace polymoe
