// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/training/run_observer.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "runtime/device.h"

namespace polymoe {

/// What a subcommand runs in.
struct CommandContext {
  int rank = 0;
  int ranks = 1;
  int rank_on_node = 0;
  int ranks_on_node = 1;   // that share this machine's cores
  bool by_mpirun = false;  // which may have bound this process to cores
  /// All ranks; for the command to move into a ProcessMesh. Null where Command::ranks is false.
  std::unique_ptr<Communicator> world;
  /// Makes `call`, collective and without a time-out of its own, known to the ledger as `name`, and
  /// ends the process with 75 where it takes longer than so many seconds, or POLYMOE_MPI_TIMEOUT.
  std::function<void(const char* name, double timeout_seconds, const std::function<void()>& call)>
      watched = {};
  /// Another communicator of all ranks, whose operations time out after so many seconds and are
  /// written down in `ledger`. Collective. Null where Command::ranks is false.
  std::function<std::unique_ptr<Communicator>(double timeout_seconds)> make_world = {};
  std::unique_ptr<Ledger> ledger = {};  // of this rank; null where Command::ranks is false
  /// Called before this process ends because the other ranks do not come to a call of `watched`.
  std::function<void()> gives_up = {};
  /// The step under way, kept up to date by the command for the line that reports an error; 0 =
  /// none.
  std::int64_t step = 0;
  RunObserver* observer = nullptr;  // of a training run; null = nobody
  /// Where the line that reports an error goes beside stderr; empty = nowhere else.
  std::filesystem::path log_file = {};
};

/// A subcommand of `polymoe`, or of one of its subcommands. main() catches what run() throws and
/// turns it into one line and an exit code; run() returns exit_done or one of the codes that are no
/// errors.
struct Command {
  std::string name;  // all its words: "train", "checkpoint inspect"
  std::string summary;
  std::string arguments;         // without names, as the help shows them: "DIR"; or empty
  std::size_t positional = 0;    // how many of them there are; all must be given
  bool more_positional = false;  // any number of them after these
  /// Options that stand for the positional arguments, in their order; none = they have no other
  /// name.
  std::vector<std::string> also_named = {};
  std::vector<CommandOption> options;  // its own
  bool overrides = false;              // takes --section.key=value as well
  bool ranks = false;                  // may run on several ranks
  bool outlives_readers = false;       // has more to do where nobody reads standard output
  bool stops_by_itself = false;        // looks at stop_request(); a signal ends others at once
  int (*run)(CommandContext& context, const std::vector<std::string>& args) = nullptr;
  /// Where there are some, a command is nothing but the family's name: no options, no run().
  std::vector<const Command*> subcommands = {};

  /// Throws InvalidArgument on anything but its options and exactly its arguments.
  CommandLine parse(const std::vector<std::string>& args) const;
};

/// Each is defined in its own file of this folder.
const Command& analyze_command();
const Command& bench_command();
const Command& checkpoint_command();
const Command& checkpoint_convert_command();
const Command& checkpoint_diff_command();
const Command& checkpoint_export_hf_command();
const Command& checkpoint_import_hf_command();
const Command& checkpoint_inspect_command();
const Command& checkpoint_prune_command();
const Command& checkpoint_verify_command();
const Command& data_command();
const Command& data_check_command();
const Command& data_show_command();
const Command& data_statistics_command();
const Command& data_windows_command();
const Command& doctor_command();
const Command& eval_command();
const Command& explain_command();
const Command& generate_command();
const Command& plan_command();
const Command& report_command();
const Command& scale_command();
const Command& scale_fit_command();
const Command& scale_predict_command();
const Command& study_command();
const Command& study_plan_command();
const Command& study_report_command();
const Command& study_run_command();
const Command& tokenize_command();
const Command& train_command();
const Command& verify_layout_command();

/// All of them, in the order of the help.
const std::vector<const Command*>& commands();
/// The command that the first words of `args` name; takes them out of `args`. Of a family alone, or
/// with --help behind it, the family. Throws InvalidArgument with the nearest name if there is
/// none.
const Command& take_command(std::vector<std::string>& args);

/// Makes context.world serve tensors on `device` too. Collective. Returns how they travel, in the
/// words of environment.json. Throws InvalidArgument or DeviceError where ranks and GPUs do not
/// fit.
std::string serve_device(CommandContext& context, Device device, bool share_gpus,
                         double timeout_seconds = 600.0);

/// --device of the commands that run a saved model, and the device that it names for this rank,
/// which context.world then serves. Collective.
CommandOption device_option();
Device inference_device(const CommandLine& line, CommandContext& context);

/// --batch of the commands that continue texts, a rank's texts at a time: in [1, most_batch].
constexpr int most_batch = 4096;
CommandOption batch_option();

/// --from DIR and --to OUT, by which the arguments DIR OUT may be given as well.
const std::vector<std::string>& from_and_to();
CommandOption from_option();
CommandOption to_option();

/// Whether an argument is --help or -h.
bool asks_for_help(const std::string& argument);
/// "polymoe --help", for a terminal of that many columns.
std::string program_help(std::size_t width);
/// "polymoe NAME --help": its options, and every key of the configuration where it takes them; of a
/// family its commands. With a `topic`, a section or part of a key, the keys of that alone. Throws
/// InvalidArgument where no key has it.
std::string command_help(const Command& command, std::size_t width, const std::string& topic = {});

}  // namespace polymoe
