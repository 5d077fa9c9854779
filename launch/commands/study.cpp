// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command.h"

namespace polymoe {

const Command& study_command() {
  static const Command command = {
      .name = "study",
      .summary = "Runs one file's worth of training runs, and compares them",
      .arguments = "",
      .options = {},
      .subcommands = {&study_plan_command(), &study_run_command(), &study_report_command()}};
  return command;
}

}  // namespace polymoe
