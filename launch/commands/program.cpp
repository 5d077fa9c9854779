// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/program.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/exit_code.h"
#include "launch/machine/signals.h"
#include "launch/machine/version.h"
#include "parallel/communication/mpi/environment.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

/// A number that mpirun tells its processes before MPI starts.
int launched(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// How a rank's work ended.
struct Ending {
  int code = exit_done;
  std::string message;  // what goes to stderr; empty without an error
};

void report(const Ending& ending) {
  if (ending.message.empty()) return;
  std::cout.flush();
  // One write, so that lines of several ranks do not mix.
  const std::string line = "polymoe: " + ending.message + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

template <class Body>
Ending run_and_catch(const CommandContext& context, bool name_rank, Body body) {
  try {
    const int code = body();
    if (code == exit_done && !std::cout.flush())
      throw OutputFileError("standard output", "could not be written");
    return {code, ""};
  } catch (const std::exception& error) {
    std::string message;
    if (name_rank) message = "rank " + std::to_string(context.rank);
    if (context.step > 0) message += ", step " + std::to_string(context.step);
    if (!message.empty()) message += ": ";
    if (dynamic_cast<const Error*>(&error) == nullptr) message += "internal error: ";
    return {exit_code_of(error), message + error.what()};
  }
}

/// Whether all ranks failed in the same way. A rank that is not there within the communicator's
/// timeout did not.
bool all_failed_alike(const Ending& ending, Communicator& ranks) {
  // The message begins with the rank's own number.
  const std::size_t cause = std::min(ending.message.find(": "), ending.message.size());
  const auto digest = static_cast<std::int64_t>(
      hash_of(std::to_string(ending.code) + ending.message.substr(cause)) >> 2);
  std::int64_t bounds[] = {digest, -digest};
  Stream stream(Device::cpu());
  try {
    ranks.all_reduce(Tensor(bounds, {2}, DType::i64, Device::cpu()), Reduction::max, stream);
  } catch (const CommunicationError&) {
    return false;
  }
  return bounds[0] == -bounds[1];
}

/// Every rank of an mpirun runs this. An error that all ranks share, as of a bad configuration, is
/// reported by the first; an error of some ends them all, so that no peer waits for ever.
int run_on_ranks(const Command& command, const std::vector<std::string>& args,
                 SaveObserver* saves) {
  constexpr double seconds_for_peers_to_fail_alike = 3.0;
  MpiEnvironment mpi;
  const std::unique_ptr<Communicator> failed_ranks =
      mpi.make_world(seconds_for_peers_to_fail_alike);
  const std::unique_ptr<Communicator> done_ranks = mpi.make_world();
  CommandContext context{.rank = mpi.rank(),
                         .ranks = mpi.size(),
                         .rank_on_node = mpi.rank_on_node(),
                         .ranks_on_node = mpi.ranks_on_node(),
                         .mpi_library = mpi.library_version(),
                         .world = mpi.make_world(),
                         .step = 0,
                         .saves = saves};
  const Ending ending = run_and_catch(context, true, [&] { return command.run(context, args); });
  context.world.reset();
  if (ending.message.empty()) {
    // A peer that fails after all ends this rank while it waits here, and must not find it in
    // MPI_Finalize: Open MPI 4.1's mpirun then never returns.
    done_ranks->barrier();
  } else if (all_failed_alike(ending, *failed_ranks)) {
    if (mpi.rank() == 0) report(ending);
  } else {
    report(ending);
    mpi.abort(ending.code);
  }
  mpi.finalize();
  return ending.code;
}

int run_alone(const Command& command, const std::vector<std::string>& args) {
  if (launched("OMPI_COMM_WORLD_SIZE", 1) > 1)
    throw InvalidArgument("'" + command.name + "' runs in one process; start it without mpirun");
  CommandContext context;
  const Ending ending = run_and_catch(context, false, [&] { return command.run(context, args); });
  report(ending);
  return ending.code;
}

/// What signals do to a command's work.
void answer_signals(const Command& command) {
  if (command.stops_by_itself) {
    std::signal(SIGPIPE, SIG_IGN);  // what nobody reads any more is no reason to lose work
    let_signals_stop_the_work(launched("OMPI_COMM_WORLD_RANK", 0) == 0);
  } else {
    let_signals_end_the_process();
  }
}

int run(std::vector<std::string> args, SaveObserver* saves) {
  if (!args.empty() && asks_for_help(args.front())) {
    std::cout << program_help();
  } else if (!args.empty() && args.front() == "--version") {
    std::cout << version_text();
  } else {
    const Command& command = take_command(args);
    for (const std::string& argument : args) {
      if (!asks_for_help(argument)) continue;
      std::cout << command_help(command);
      return exit_done;
    }
    if (!command.subcommands.empty())
      throw InvalidArgument("'" + command.name + "' needs a command; polymoe " + command.name +
                            " --help lists them");
    answer_signals(command);
    return command.ranks ? run_on_ranks(command, args, saves) : run_alone(command, args);
  }
  return exit_done;
}

}  // namespace

int run_program(const std::vector<std::string>& args, SaveObserver* saves) {
  const CommandContext before_ranks;
  const Ending ending = run_and_catch(before_ranks, false, [&] { return run(args, saves); });
  if (launched("OMPI_COMM_WORLD_RANK", 0) == 0) report(ending);
  return ending.code;
}

}  // namespace polymoe
