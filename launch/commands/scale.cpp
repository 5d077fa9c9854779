// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command.h"

namespace polymoe {

const Command& scale_command() {
  static const Command command = {.name = "scale",
                                  .summary = "Fits scaling laws to studies, and predicts by them",
                                  .arguments = "",
                                  .options = {},
                                  .subcommands = {&scale_fit_command(), &scale_predict_command()}};
  return command;
}

}  // namespace polymoe
