// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launch/config.h"
#include "launch/options.h"
#include "parallel/communicator.h"
#include "runtime/device.h"

namespace polymoe {

/// What a subcommand runs in.
struct CommandContext {
  int rank = 0;
  int ranks = 1;
  int ranks_on_node = 1;    // that share this machine's cores
  std::string mpi_library;  // in its own words; empty where Command::ranks is false
  /// All ranks; for the command to move into a ProcessMesh. Null where Command::ranks is false.
  std::unique_ptr<Communicator> world;
  /// The step under way, kept up to date by the command for the line that reports an error; 0 =
  /// none.
  std::int64_t step = 0;
};

/// A subcommand of `polymoe`. main() catches what run() throws and turns it into one line and an
/// exit code; run() returns exit_done or one of the codes that are no errors.
struct Command {
  std::string name;
  std::string summary;
  std::string arguments;               // without names, as the help shows them: "DIR"; or empty
  std::size_t positional = 0;          // how many of them are allowed
  std::vector<CommandOption> options;  // its own
  bool overrides = false;              // takes --section.key=value as well
  bool ranks = false;                  // may run on several ranks
  int (*run)(CommandContext& context, const std::vector<std::string>& args) = nullptr;

  CommandLine parse(const std::vector<std::string>& args) const {
    return CommandLine(options, args, positional, overrides);
  }
};

/// Each is defined in its own file of this folder.
const Command& eval_command();
const Command& generate_command();
const Command& plan_command();
const Command& tokenize_command();
const Command& train_command();

/// All of them, in the order of the help.
const std::vector<const Command*>& commands();
/// Throws InvalidArgument with the nearest one if there is no command of that name.
const Command& find_command(const std::string& name);

/// "polymoe --help".
std::string program_help();
/// "polymoe NAME --help": its options, and every key of the configuration where it takes them.
std::string command_help(const Command& command);

/// The device that run.device names. Throws InvalidArgument where this build or machine has none.
Device select_device(const std::string& name);

}  // namespace polymoe
