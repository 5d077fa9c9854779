// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/signals.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "launch/machine/exit_code.h"

namespace polymoe {
namespace {

using Clock = std::chrono::steady_clock;

// `timeout` signals its child twice, a closing session its processes by several ways.
constexpr std::chrono::milliseconds duplicates_come_within{500};

enum class Answer : std::uint8_t { undecided, stop_the_work, end_the_process };

struct State {
  std::mutex mutex;  // guards what is no atomic
  Answer answer = Answer::undecided;
  bool speaks_of_preemption = false, speaks_of_others = false;
  int first = 0;         // signal that asked first; 0 = none
  int first_urgent = 0;  // the first SIGINT or SIGTERM
  Clock::time_point urgent_since;
  std::atomic<StopRequest> request = StopRequest::none;
  std::atomic<int> explanations = 0;
};

// Signals belong to the process, and so does what became of them. Never destroyed: the thread that
// takes signals outlives main().
State& state() {
  static State& only = *new State;
  return only;
}

bool blocked = false;
bool hang_up_ignored = false, interrupt_ignored = false;
sigset_t mask_before;

void restore_mask_in_child() { pthread_sigmask(SIG_SETMASK, &mask_before, nullptr); }

constexpr std::array taken_signals = {SIGUSR1, SIGUSR2, SIGXCPU, SIGHUP, SIGINT, SIGTERM};

sigset_t set_of_taken_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : taken_signals) sigaddset(&set, signal);
  return set;
}

StopRequest request_of(int signal) {
  switch (signal) {
    case SIGHUP:
      return StopRequest::hang_up;
    case SIGINT:
      return StopRequest::interrupt;
    case SIGTERM:
      return StopRequest::terminate;
    default:
      return StopRequest::preempt;
  }
}

bool is_urgent(int signal) { return signal == SIGINT || signal == SIGTERM; }

/// By the signal's own action, so that whoever started the process sees by what it ended.
[[noreturn]] void end_by(int signal) {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  raise(signal);  // to this thread: the one that takes signals must not
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  _exit(128 + signal);  // the first process of a container is not ended by signals
}

const char* spelled(int signal) {
  return signal == SIGXCPU ? "SIGXCPU" : name_of(request_of(signal));
}

void say(const std::string& line) {
  const std::string text =
      fmt::format("{}polymoe: {}\n", isatty(STDERR_FILENO) != 0 ? "\n" : "", line);
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
}

/// Of a command that keeps nothing of its work.
[[noreturn]] void end_at_once(int signal) {
  if (signal != SIGUSR1 && signal != SIGXCPU) end_by(signal);
  if (state().speaks_of_preemption)
    say(fmt::format("{}: ended at once, nothing of its work is kept", spelled(signal)));
  _exit(exit_preempted);
}

void say_heard(int signal) {
  const bool preempted = request_of(signal) == StopRequest::preempt;
  if (!(preempted ? state().speaks_of_preemption : state().speaks_of_others)) return;
  say(fmt::format("{}: the step under way is finished and a checkpoint committed{}",
                  spelled(signal), preempted ? "" : "; SIGINT or SIGTERM again ends at once"));
}

/// Whether whoever started the process wants it to live through this one: nohup ignores SIGHUP, a
/// shell without job control the SIGINT of the terminal, but not one that is sent to the process.
bool is_ignored(const siginfo_t& info) {
  if (info.si_signo == SIGHUP) return hang_up_ignored;
  return info.si_signo == SIGINT && interrupt_ignored && info.si_code > 0;
}

void take(int signal) {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  if (now.answer == Answer::end_the_process) end_at_once(signal);
  if (signal == SIGUSR2) {
    ++now.explanations;
    return;
  }
  if (is_urgent(signal) && now.answer == Answer::stop_the_work && now.first_urgent != 0 &&
      Clock::now() - now.urgent_since > duplicates_come_within)
    end_by(signal);
  if (is_urgent(signal) && now.first_urgent == 0) {
    now.first_urgent = signal;
    now.urgent_since = Clock::now();
  }
  if (now.first == 0) {
    now.first = signal;
    now.request = request_of(signal);
    if (now.answer == Answer::stop_the_work) say_heard(signal);
  } else if (is_urgent(signal) && !is_urgent(now.first)) {
    now.request = request_of(signal);
  }
}

void take_signals() {
  prctl(PR_SET_NAME, "signals");
  const sigset_t set = set_of_taken_signals();
  while (true) {
    siginfo_t info = {};
    const int signal = sigwaitinfo(&set, &info);
    if (signal > 0 && !is_ignored(info)) take(signal);
  }
}

}  // namespace

const char* name_of(StopRequest request) {
  switch (request) {
    case StopRequest::none:
      return "";
    case StopRequest::preempt:
      return "SIGUSR1";
    case StopRequest::hang_up:
      return "SIGHUP";
    case StopRequest::interrupt:
      return "SIGINT";
    case StopRequest::terminate:
      return "SIGTERM";
  }
  return "";
}

void block_signals() noexcept {
  if (blocked) return;
  blocked = true;
  sigset_t set;
  sigfillset(&set);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGQUIT,
                           SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGPIPE})
    sigdelset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, &mask_before);
}

void keep_standard_streams() noexcept {
  // For the other direction, so that using it still fails.
  for (const auto& [stream, mode] :
       {std::pair(0, O_WRONLY), std::pair(1, O_RDONLY), std::pair(2, O_RDONLY)})
    if (fcntl(stream, F_GETFD) < 0) open("/dev/null", mode);
}

void start_signal_thread() {
  pthread_atfork(nullptr, nullptr, restore_mask_in_child);
  const auto ignored = [](int signal) {
    struct sigaction action = {};
    return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  };
  hang_up_ignored = ignored(SIGHUP);
  interrupt_ignored = ignored(SIGINT);
  std::thread(take_signals).detach();
}

void let_signals_stop_the_work(bool speaks_of_preemption, bool speaks_of_others) {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  now.answer = Answer::stop_the_work;
  now.speaks_of_preemption = speaks_of_preemption;
  now.speaks_of_others = speaks_of_others;
  if (now.first != 0) say_heard(now.first);
}

void let_signals_end_the_process(bool speaks_of_preemption) {
  State& now = state();
  const std::lock_guard lock(now.mutex);
  now.answer = Answer::end_the_process;
  now.speaks_of_preemption = speaks_of_preemption;
  if (now.first != 0) end_at_once(now.first);
}

int explanations_asked_for() noexcept { return state().explanations; }

StopRequest stop_request() noexcept { return state().request; }

}  // namespace polymoe
