// SPDX-License-Identifier: Apache-2.0
// A library to preload: the system's clock jumps by a year every 70 ms, ahead, back, behind, back.
// The clocks that a process measures time with go on as they do.
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

namespace {

using ClockGetTime = int (*)(clockid_t, timespec*);

ClockGetTime true_clock() {
  static const auto found = reinterpret_cast<ClockGetTime>(dlsym(RTLD_NEXT, "clock_gettime"));
  return found;
}

time_t seconds_off() {
  constexpr long interval = 70'000'000;
  constexpr time_t year = 365 * 86400;
  timespec now{};
  true_clock()(CLOCK_MONOTONIC, &now);
  const long turn = (now.tv_sec % 1000 * 1'000'000'000 + now.tv_nsec) / interval % 4;
  return turn == 1 ? year : turn == 3 ? -year : 0;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = true_clock()(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    time->tv_sec += seconds_off();
  return result;
}

int gettimeofday(timeval* __restrict time, void* __restrict) noexcept {
  timespec now{};
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  *time = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}

time_t time(time_t* seconds) noexcept {
  timespec now{};
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  if (seconds != nullptr) *seconds = now.tv_sec;
  return now.tv_sec;
}
}
