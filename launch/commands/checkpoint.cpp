// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command.h"

namespace polymoe {

const Command& checkpoint_command() {
  static const Command command = {
      .name = "checkpoint",
      .summary = "Looks into checkpoints, checks and converts them",
      .arguments = "",
      .options = {},
      .subcommands = {&checkpoint_inspect_command(), &checkpoint_verify_command(),
                      &checkpoint_diff_command(), &checkpoint_convert_command(),
                      &checkpoint_prune_command(), &checkpoint_export_hf_command(),
                      &checkpoint_import_hf_command()}};
  return command;
}

}  // namespace polymoe
