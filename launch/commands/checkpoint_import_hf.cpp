// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <iostream>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/huggingface/interchange.h"
#include "launch/machine/exit_code.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

int parse_ranks(const std::string& option, const std::string& text) {
  constexpr int most = 65536;
  const auto value = parse_count(text);
  if (!value || *value < 1 || *value > most)
    throw InvalidArgument(
        fmt::format("--{} {}: must be a whole number in [1, {}]", option, text, most));
  return static_cast<int>(*value);
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_import_hf_command().parse(args);
  const InterchangeReport report = import_huggingface(
      {.from = line.positional()[0],
       .to = line.positional()[1],
       .ranks = parse_ranks("ranks", line.value("ranks", "1")),
       .expert_parallel = parse_ranks("expert-parallel", line.value("expert-parallel", "1")),
       .progress = progress_on_stderr()});
  Log log(Log::alone);
  for (const std::string& note : report.notes) log.warning(note);
  std::cout << fmt::format("checkpoint  {}\nmodel       {}, {} parameters\n",
                           report.checkpoint.string(), report.architecture,
                           with_separators(report.parameters));
  return exit_done;
}

}  // namespace

const Command& checkpoint_import_hf_command() {
  static const Command command = {
      .name = "checkpoint import-hf",
      .summary =
          "Makes OUT, a new or an empty directory, a run directory of the OLMoE or Llama "
          "model in DIR, or of an export: config.json and model.safetensors, or its parts "
          "and their index",
      .arguments = "DIR OUT",
      .positional = 2,
      .also_named = from_and_to(),
      .options = {{.name = "ranks",
                   .value = "N",
                   .help = "shards of the checkpoint; any number of ranks reads it; default 1"},
                  {.name = "expert-parallel",
                   .value = "M",
                   .help = "ranks that hold the experts together; default 1"},
                  from_option(),
                  to_option()},
      .run = run};
  return command;
}

}  // namespace polymoe
