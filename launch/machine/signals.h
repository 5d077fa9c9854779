// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe {

/// Why a run was asked to end early. Of several ranks' requests the largest counts.
enum class StopRequest : std::uint8_t {
  none,
  preempt,    // SIGUSR1, and SIGXCPU: the soft limit of processor time
  hang_up,    // SIGHUP: the terminal is gone
  interrupt,  // SIGINT
  terminate,  // SIGTERM
};

/// "SIGTERM" and so on; "" for none.
const char* name_of(StopRequest request);

/// Blocks, on the calling thread and so on all that it starts, every signal whose handler could run
/// on a thread that computes: oneDNN keeps the stack pointer in a heap buffer while it multiplies
/// (uxlfoundation/oneDNN#4845), where a handler's frame overwrites the heap. Left alone are signals
/// of faults of the thread itself, and those by which the kernel stops, continues or ends a process
/// without a handler (SIGTSTP, SIGCONT, SIGQUIT, SIGPIPE).
///
/// Children of this process start with the mask that it had before. Calls after the first change
/// nothing. The program calls it before the loader runs any library's initialisation.
void block_signals() noexcept;

/// Puts /dev/null in the place of each standard stream that the process was started without: the
/// next file that is opened would become it, and get its messages.
void keep_standard_streams() noexcept;

/// Starts the thread that takes signals; first thing in main(), after block_signals(). At most
/// once. Until one of the next two is called a signal is only remembered.
void start_signal_thread();

/// From here on SIGUSR1, SIGHUP, SIGINT and SIGTERM ask the work to end by itself, which it notices
/// by stop_request(). A second SIGINT or SIGTERM, later than duplicates that launchers send, ends
/// the process at once. `speaks_of_preemption`, `speaks_of_others`: says on stderr that it was
/// heard.
void let_signals_stop_the_work(bool speaks_of_preemption, bool speaks_of_others);

/// From here on a signal ends the process at once, as does one that has come: SIGUSR1 and SIGXCPU
/// with exit_preempted, as who sends them expects of any command, and where `speaks_of_preemption`
/// a line on stderr; others by that signal.
void let_signals_end_the_process(bool speaks_of_preemption);

/// How often SIGUSR2 has come. Any thread.
int explanations_asked_for() noexcept;

/// What has been asked for so far. Any thread.
StopRequest stop_request() noexcept;

}  // namespace polymoe
