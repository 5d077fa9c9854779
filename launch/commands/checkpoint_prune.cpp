// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "launch/training/run_directory.h"
#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/names.h"
#include "runtime/error.h"
#include "runtime/log.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// Everything in a directory that is named like a checkpoint.
std::vector<std::string> checkpoints_in(const fs::path& root) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(root, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("step-")) names.push_back(name);
  }
  if (error) throw InputFileError(root.string(), "cannot list: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_prune_command().parse(args);
  const auto keep = parse_count(line.value("keep"));
  if (!keep || *keep < 1)
    throw InvalidArgument("--keep " + line.value("keep") + ": must be a whole number, at least 1");
  const fs::path given = fs::path(line.positional().front());
  fs::path root = given / checkpoints_folder;
  if (!fs::is_directory(root)) root = given;
  const std::vector<std::string> before = checkpoints_in(root);
  if (before.empty()) throw InputFileError(root.string(), "holds no checkpoint");
  // A training under way may be writing the checkpoint that looks abandoned.
  std::optional<RunDirectory> lock;
  const fs::path run = fs::weakly_canonical(root).parent_path();
  if (fs::exists(run / "lock")) lock.emplace(run);
  if (lock && !lock->warning().empty()) Log(0).warning(lock->warning());
  prune_checkpoints(root, *keep);
  const std::vector<std::string> after = checkpoints_in(root);
  for (const std::string& name : before)
    if (!std::binary_search(after.begin(), after.end(), name))
      std::cout << "removed " << (root / name).string() << '\n';
  std::cout << fmt::format("{} left in {}\n", after.size(), root.string());
  return exit_done;
}

}  // namespace

const Command& checkpoint_prune_command() {
  static const Command command = {
      .name = "checkpoint prune",
      .summary =
          "Removes what is older than the newest checkpoints of a run, and what a killed run "
          "left half-written",
      .arguments = "DIR",
      .positional = 1,
      .options = {{.name = "keep",
                   .value = "N",
                   .help = "how many of the newest ones stay; damaged ones do not count",
                   .required = true}},
      .run = run};
  return command;
}

}  // namespace polymoe
