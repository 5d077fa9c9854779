// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/program.h"
#include <signal.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/reference.h"
#include "launch/explaining/explanation.h"
#include "launch/machine/call_watch.h"
#include "launch/machine/early_exit.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/launcher.h"
#include "launch/machine/node_threads.h"
#include "launch/machine/signals.h"
#include "launch/machine/version.h"
#include "launch/training/run_observer.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/mpi/environment.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/progress.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

/// How a rank's work ended.
struct Ending {
  int code = exit_done;
  std::string message;  // what goes to stderr; empty without an error
};

/// On stderr, and in the log of the run that it ended.
void report(const Ending& ending, const CommandContext& context) {
  if (ending.message.empty()) return;
  std::cout.flush();
  if (!context.log_file.empty())
    append_dated_line(context.log_file,
                      "exit " + std::to_string(ending.code) + ": " + ending.message);
  // One write, so that lines of several ranks do not mix.
  const std::string line = "polymoe: " + ending.message + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

/// "rank 3, step 7: ", as far as there are ranks and steps.
std::string place_of_error(const CommandContext& context, bool name_rank) {
  std::string place;
  if (name_rank) place = "rank " + std::to_string(context.rank);
  if (context.step > 0)
    place += (place.empty() ? "step " : ", step ") + std::to_string(context.step);
  return place.empty() ? place : place + ": ";
}

template <class Body>
Ending run_and_catch(const CommandContext& context, bool name_rank, Body body) {
  try {
    const int code = body();
    if (code == exit_done && !std::cout.flush())
      throw OutputFileError("standard output", "could not be written");
    return {code, ""};
  } catch (const std::exception& error) {
    std::string message = place_of_error(context, name_rank);
    if (dynamic_cast<const Error*>(&error) == nullptr) message += "internal error: ";
    return {exit_code_of(error), message + error.what()};
  }
}

Ending run_and_catch(const Command& command, const std::vector<std::string>& args,
                     CommandContext& context, bool name_rank) {
  const EarlyExit early_exit([&] {
    if (context.ledger) context.ledger->set_doing(ending_by_error);
    report({exit_internal, place_of_error(context, name_rank) +
                               "internal error: something called exit() in the middle of the work"},
           context);
  });
  return run_and_catch(context, name_rank, [&] { return command.run(context, args); });
}

/// Whether all ranks failed in the same way. A rank that is not there within the communicator's
/// timeout did not.
bool all_failed_alike(const Ending& ending, Communicator& ranks) {
  // The message begins with the rank's own number.
  const std::size_t cause = std::min(ending.message.find(": "), ending.message.size());
  const auto digest = static_cast<std::int64_t>(
      hash_of(std::to_string(ending.code) + ending.message.substr(cause)));
  try {
    return same_on_all_ranks(digest, ranks);
  } catch (const CommunicationError&) {
    return false;
  }
}

/// A start that was refused leaves nothing to explain.
void forget_start(const CommandContext& context) {
  if (context.step == 0 && context.ledger) context.ledger->forget_file();
}

/// What signals do to a command's work.
void answer_signals(const Command& command, const Launcher& launcher) {
  // What nobody reads any more is no reason to lose work.
  if (command.stops_by_itself || command.outlives_readers) std::signal(SIGPIPE, SIG_IGN);
  if (command.stops_by_itself) {
    // mpirun sends SIGTERM to the others where one rank has failed: nothing to speak of.
    let_signals_stop_the_work(launcher.rank == 0, launcher.rank == 0 && !launcher.needs_mpi);
  } else {
    let_signals_end_the_process(launcher.rank == 0);
  }
}

/// Every rank of an mpirun runs this. An error that all ranks share, as of a bad configuration, is
/// reported by the first; an error of some ends them all, so that no peer waits for ever.
int run_on_ranks(const Command& command, const std::vector<std::string>& args,
                 RunObserver* observer, const Launcher& launcher) {
  constexpr double seconds_for_peers_to_fail_alike = 3.0;
  const double timeout = mpi_timeout();
  std::optional<CallWatch> watch(std::in_place, launcher.rank, "MPI_Init", timeout);
  MpiEnvironment mpi;
  if (mpi.size() < launcher.ranks)
    throw InvalidArgument("the launcher started " + std::to_string(launcher.ranks) +
                          " processes, but MPI finds " + std::to_string(mpi.size()) +
                          ": is it the launcher of " + MpiEnvironment::library_version() + "?");
  const std::unique_ptr<Communicator> failed_ranks =
      mpi.make_world(seconds_for_peers_to_fail_alike);
  const std::unique_ptr<Communicator> done_ranks = mpi.make_world();
  CommandContext context{.rank = mpi.rank(),
                         .ranks = mpi.size(),
                         .rank_on_node = mpi.rank_on_node(),
                         .ranks_on_node = mpi.ranks_on_node(),
                         .by_mpirun = launcher.by_mpirun,
                         .world = mpi.make_world(),
                         .ledger = std::make_unique<Ledger>(mpi.rank(), mpi.size()),
                         .step = 0,
                         .observer = observer};
  watch.reset();
  Ledger::Group start = context.ledger->add_group("start");
  context.watched = [&](const char* name, double timeout_seconds,
                        const std::function<void()>& call) {
    const CallWatch look_on(mpi.rank(), name, std::min(timeout_seconds, timeout), context.gives_up);
    const std::int64_t sequence = start.post(name, 0);
    start.start(sequence);
    call();
    start.finish(sequence);
  };
  context.make_world = [&](double timeout_seconds) {
    std::unique_ptr<Communicator> world;
    context.watched("MPI_Comm_dup", timeout_seconds,
                    [&] { world = mpi.make_world(timeout_seconds, context.ledger.get()); });
    return world;
  };
  const Ending ending = run_and_catch(command, args, context, mpi.size() > 1);
  context.world.reset();
  if (ending.message.empty()) {
    // A peer that fails after all ends this rank while it waits here, and must not find it in
    // MPI_Finalize: Open MPI 4.1's mpirun then never returns.
    done_ranks->barrier();
  } else if (all_failed_alike(ending, *failed_ranks)) {
    forget_start(context);
    if (mpi.rank() == 0) report(ending, context);
  } else {
    report(ending, context);
    mpi.abort(ending.code);
  }
  const CallWatch look_on(mpi.rank(), "MPI_Finalize", timeout);
  mpi.finalize();
  return ending.code;
}

/// The command in this process, without MPI.
int run_alone(const Command& command, const std::vector<std::string>& args, RunObserver* observer,
              const Launcher& launcher) {
  CommandContext context;
  context.by_mpirun = launcher.by_mpirun;
  context.observer = observer;
  if (command.ranks) {
    context.make_world = [](double timeout_seconds) {
      return std::move(make_local_communicators(1, timeout_seconds).front());
    };
    context.watched = [](const char*, double, const std::function<void()>& call) { call(); };
    context.world = context.make_world(600.0);
    context.ledger = std::make_unique<Ledger>(0, 1);
  }
  const Ending ending = run_and_catch(command, args, context, false);
  if (!ending.message.empty()) forget_start(context);
  report(ending, context);
  return ending.code;
}

int run_command(const Command& command, const std::vector<std::string>& args,
                RunObserver* observer) {
  const Launcher launcher = find_launcher();
  answer_signals(command, launcher);
  settle_openmp();
  if (!launcher.problem.empty())
    throw InvalidArgument("'" + command.name + "': " + launcher.problem);
  if (launcher.needs_mpi && !command.ranks)
    throw InvalidArgument("'" + command.name + "' runs in one process; start it without mpirun");
  return launcher.needs_mpi ? run_on_ranks(command, args, observer, launcher)
                            : run_alone(command, args, observer, launcher);
}

/// Help is as wide as the terminal.
std::size_t help_width() {
  constexpr int usual = 100, least = 50, most = 140;
  const ProgressOutput output = progress_on_stdout();
  return static_cast<std::size_t>(output.terminal ? std::clamp(columns_of(output), least, most)
                                                  : usual);
}

/// `COMMAND ... --help [TOPIC]`; nothing where no argument asks for help.
bool show_help(const Command& command, const std::vector<std::string>& args) {
  const auto asked = std::find_if(args.begin(), args.end(), asks_for_help);
  if (asked == args.end()) return false;
  const bool topic = asked + 1 != args.end() && !(asked + 1)->starts_with("-");
  std::cout << command_help(command, help_width(), topic ? *(asked + 1) : "");
  return true;
}

int run(std::vector<std::string> args, RunObserver* observer) {
  // "help COMMAND [TOPIC]" and "--help COMMAND [TOPIC]" are "COMMAND --help [TOPIC]".
  if (!args.empty() && (args.front() == "help" || asks_for_help(args.front()))) {
    args.erase(args.begin());
    if (args.size() == 2 && args.front() == "--reference") {
      write_reference(args.back());
      return exit_done;
    }
    if (args.empty()) {
      args.emplace_back("--help");
    } else {
      const Command& command = take_command(args);
      args.insert(args.begin(), "--help");
      show_help(command, args);
      return exit_done;
    }
  }
  if (!args.empty() && asks_for_help(args.front())) {
    std::cout << program_help(help_width());
  } else if (!args.empty() && (args.front() == "--version" || args.front() == "version")) {
    std::cout << version_text();
  } else {
    const Command& command = take_command(args);
    if (show_help(command, args)) return exit_done;
    if (!command.subcommands.empty())
      throw InvalidArgument("'" + command.name + "' needs a command; polymoe " + command.name +
                            " --help lists them");
    return run_command(command, args, observer);
  }
  return exit_done;
}

}  // namespace

int run_program(const std::vector<std::string>& args, RunObserver* observer) {
  const CommandContext before_ranks;
  const Ending ending = run_and_catch(before_ranks, false, [&] { return run(args, observer); });
  if (find_launcher().rank == 0) report(ending, before_ranks);
  return ending.code;
}

}  // namespace polymoe
