// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/early_exit.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <utility>

#include "launch/machine/exit_code.h"

namespace polymoe {
namespace {

// exit() belongs to the process, and so does what is made of it.
struct State {
  std::mutex mutex;            // guards what follows
  std::function<void()> tell;  // empty: exit() is none of our business
};

State& state() {
  static State& only = *new State;  // never destroyed: exit() destroys what is
  return only;
}

void at_exit() {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  if (!now.tell) return;
  now.tell();
  std::fflush(nullptr);
  _exit(exit_internal);
}

}  // namespace

EarlyExit::EarlyExit(std::function<void()> tell) {
  static const int registered = std::atexit(at_exit);
  State& now = state();
  const std::lock_guard lock(now.mutex);
  if (registered == 0) now.tell = std::move(tell);
}

EarlyExit::~EarlyExit() {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  now.tell = nullptr;
}

}  // namespace polymoe
