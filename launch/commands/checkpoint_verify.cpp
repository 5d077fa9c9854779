// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iostream>

#include "launch/commands/command.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "parallel/checkpoint/verify.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_verify_command().parse(args);
  const std::string& path = line.positional().front();
  const CheckpointVerdict verdict = verify_checkpoint(path);
  for (const std::string& finding : verdict.findings) std::cout << finding << '\n';
  if (!verdict.findings.empty()) {
    throw InputFileError(
        path, fmt::format("is not valid: {} found; use an older checkpoint",
                          verdict.findings.size() == 1
                              ? "1 thing wrong was"
                              : fmt::format("{} things wrong were", verdict.findings.size())));
  }
  std::cout << fmt::format("{}: valid; {} files, {} bytes, {} tensors, {} elements, all finite\n",
                           path, verdict.files, with_separators(verdict.bytes), verdict.tensors,
                           with_separators(verdict.elements));
  return exit_done;
}

}  // namespace

const Command& checkpoint_verify_command() {
  static const Command command = {
      .name = "checkpoint verify",
      .summary =
          "Checks sizes, hashes, cover and values; a line for everything wrong, then exit 65",
      .arguments = "DIR",
      .positional = 1,
      .options = {},
      .run = run};
  return command;
}

}  // namespace polymoe
