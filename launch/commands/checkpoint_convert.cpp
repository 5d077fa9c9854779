// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/convert.h"

#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

int whole_number(const CommandLine& line, const std::string& option, int otherwise) {
  constexpr std::int64_t most = 1'000'000;
  if (!line.has(option)) return otherwise;
  const auto value = parse_count(line.value(option));
  if (!value || *value < 1 || *value > most)
    throw InvalidArgument(fmt::format("--{} {}: must be a whole number in [1, {}]", option,
                                      line.value(option), most));
  return static_cast<int>(*value);
}

std::optional<DType> dtype_of_parameters(const CommandLine& line) {
  if (!line.has("dtype")) return std::nullopt;
  const std::string name = line.value("dtype");
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  throw InvalidArgument("--dtype " + name + ": must be bf16 or f32");
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_convert_command().parse(args);
  const int ranks = whole_number(line, "ranks", 1);
  const int expert_parallel = whole_number(line, "expert-parallel", 1);
  const std::optional<DType> parameters = dtype_of_parameters(line);
  std::vector<std::string> notes;
  const std::filesystem::path from = resolve_checkpoint(line.positional()[0], notes);
  Log log(Log::alone);
  for (const std::string& note : notes) log.warning(note);
  std::filesystem::path to = std::filesystem::path(line.positional()[1]).lexically_normal();
  if (!to.has_filename()) to = to.parent_path();  // a slash at the end
  convert_checkpoint(from, to, ranks, expert_parallel, parameters, progress_on_stderr());
  std::cout << fmt::format("{}: written from {} for {} rank{}, expert parallelism {}\n",
                           to.string(), from.string(), ranks, ranks == 1 ? "" : "s",
                           expert_parallel);
  return exit_done;
}

}  // namespace

const Command& checkpoint_convert_command() {
  static const Command command = {
      .name = "checkpoint convert",
      .summary =
          "Writes a checkpoint's content for another number of ranks, bit for bit unless --dtype "
          "says otherwise, as the new checkpoint OUT",
      .arguments = "DIR OUT",
      .positional = 2,
      .also_named = from_and_to(),
      .options =
          {{.name = "ranks", .value = "N", .help = "whose shards are written", .required = true},
           {.name = "expert-parallel",
            .value = "M",
            .help = "ranks that share a layer's experts; divides the ranks and the experts; "
                    "default 1"},
           {.name = "dtype",
            .value = "TYPE",
            .help = "f32 or bf16, in which parameters are stored, rounded to the nearest; moments "
                    "stay as they are; default: parameters too"},
           from_option(),
           to_option()},
      .run = run};
  return command;
}

}  // namespace polymoe
