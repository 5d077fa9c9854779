// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "launch/commands/command.h"
#include "launch/exit_code.h"
#include "launch/saved_model.h"
#include "launch/validation.h"
#include "launch/values.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/token_file.h"

namespace polymoe {
namespace {

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = eval_command().parse(args);
  const auto whole_number = [&](const char* option, const char* otherwise, std::int64_t least,
                                std::int64_t most) {
    const std::string text = line.value(option, otherwise);
    const auto value = parse_count(text);
    if (!value || *value < least || *value > most)
      throw InvalidArgument(
          fmt::format("--{} {}: must be a whole number in [{}, {}]", option, text, least, most));
    return static_cast<int>(*value);
  };
  const int token_bytes = whole_number("token-bytes", "2", 2, 4);
  const int threads = whole_number("threads", "0", 0, 65536);
  const TokenFile file = TokenFile::open(line.value("tokens"), token_bytes);

  SavedModel saved(line.value("checkpoint"), std::move(context.world), threads);
  const ModelConfig& model = saved.config().model;
  if (context.rank == 0) file.check_vocabulary(model.vocab);
  const Evaluation result =
      evaluate(saved.model(), file,
               {.context = model.context, .per_batch = saved.config().train.micro_batch},
               saved.mesh(), saved.context());
  saved.shutdown();
  if (context.rank != 0) return exit_done;
  fmt::print(
      "checkpoint  {}\ntokens      {} predicted of {}\nloss        {:.6f}\n"
      "perplexity  {:.4f}\n",
      saved.checkpoint().string(), with_separators(result.tokens), file.path().string(),
      result.loss(), result.perplexity());
  if (line.has("json")) {
    Json report = Json::object();
    report.set("loss", result.loss());
    report.set("perplexity", result.perplexity());
    report.set("tokens", result.tokens);
    replace_file(line.value("json"), report.dump() + "\n");
  }
  return exit_done;
}

}  // namespace

const Command& eval_command() {
  static const Command command = {
      .name = "eval",
      .summary = "Measures cross-entropy and perplexity of a checkpoint on a token file",
      .arguments = "",
      .options = {{.name = "checkpoint",
                   .value = "DIR",
                   .help = "a checkpoint, or a run directory: then its newest valid one",
                   .required = true},
                  {.name = "tokens",
                   .value = "FILE",
                   .help = "Megatron .bin with .idx, llm.c .bin, or raw .npy",
                   .required = true},
                  {.name = "json", .value = "OUT", .help = "writes loss, perplexity, tokens there"},
                  {.name = "token-bytes",
                   .value = "N",
                   .help = "width of the tokens of a raw .npy file: 2 (default) or 4"},
                  {.name = "threads",
                   .value = "N",
                   .help = "of each rank; default: the node's cores shared by its ranks"}},
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
