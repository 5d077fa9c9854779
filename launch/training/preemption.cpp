// SPDX-License-Identifier: Apache-2.0
#include "launch/training/preemption.h"

#include <signal.h>

#include <atomic>

namespace polymoe {
namespace {

// A signal handler reaches nothing but globals.
std::atomic<bool> signal_arrived{false};
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void polymoe_on_preemption(int) { signal_arrived.store(true); }

}  // namespace

PreemptionSignal::PreemptionSignal() {
  signal_arrived.store(false);
  struct sigaction action = {};
  action.sa_handler = polymoe_on_preemption;
  action.sa_flags = SA_RESTART;  // a write or a read under way goes on
  sigaction(SIGUSR1, &action, nullptr);
}

PreemptionSignal::~PreemptionSignal() {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGUSR1, &action, nullptr);
}

bool PreemptionSignal::raised() const { return signal_arrived.load(); }

}  // namespace polymoe
