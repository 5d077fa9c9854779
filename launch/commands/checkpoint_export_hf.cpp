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
#include "runtime/files/safetensors.h"
#include "runtime/log.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

SafetensorsDType parse_dtype(const std::string& text) {
  if (text == "f32") return SafetensorsDType::f32;
  if (text == "bf16") return SafetensorsDType::bf16;
  throw InvalidArgument("--dtype " + text + ": must be bf16 or f32");
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_export_hf_command().parse(args);
  const InterchangeReport report =
      export_huggingface({.from = line.positional()[0],
                          .to = line.positional()[1],
                          .dtype = parse_dtype(line.value("dtype", "f32")),
                          .progress = progress_on_stderr()});
  Log log(Log::alone);
  for (const std::string& note : report.notes) log.warning(note);
  std::cout << fmt::format("checkpoint  {}\nwritten     {}\nmodel       {}, {} parameters\n",
                           report.checkpoint.string(), line.positional()[1], report.architecture,
                           with_separators(report.parameters));
  return exit_done;
}

}  // namespace

const Command& checkpoint_export_hf_command() {
  static const Command command = {
      .name = "checkpoint export-hf",
      .summary =
          "Writes the model of DIR, a checkpoint or a run directory (then its newest valid "
          "one), as safetensors for Hugging Face's transformers into OUT, a new or an empty "
          "directory",
      .arguments = "DIR OUT",
      .positional = 2,
      .also_named = from_and_to(),
      .options = {{.name = "dtype",
                   .value = "TYPE",
                   .help = "f32 as it is, or bf16 rounded to the nearest; default f32"},
                  from_option(),
                  to_option()},
      .run = run};
  return command;
}

}  // namespace polymoe
