// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "parallel/checkpoint/verify.h"
#include "runtime/error.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// The path itself, or of a run directory its newest checkpoint, be it valid or not.
std::string checkpoint_of(const std::string& path) {
  std::error_code error;
  std::string newest;
  for (fs::directory_iterator entry(fs::path(path) / "checkpoints", error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool committed = name.starts_with("step-") && name.find('.') == std::string::npos;
    if (committed && name > newest) newest = name;
  }
  return newest.empty() ? path : (fs::path(path) / "checkpoints" / newest).string();
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_verify_command().parse(args);
  const std::string path = checkpoint_of(line.positional().front());
  if (fs::is_directory(path) && !fs::exists(fs::path(path) / "manifest.json"))
    throw InputFileError(path,
                         "neither a checkpoint (no manifest.json) nor a run directory with one");
  const CheckpointVerdict verdict = verify_checkpoint(path, progress_on_stderr());
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
  static const Command command = {.name = "checkpoint verify",
                                  .summary =
                                      "Checks sizes, hashes, cover and values of a checkpoint, or "
                                      "of a run directory's newest; a "
                                      "line for everything wrong, then exit 65",
                                  .arguments = "DIR",
                                  .positional = 1,
                                  .options = {},
                                  .run = run};
  return command;
}

}  // namespace polymoe
