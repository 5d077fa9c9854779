// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iostream>

#include "launch/commands/command.h"
#include "launch/commands/exit_code.h"
#include "launch/commands/first_rank.h"
#include "launch/config/values.h"
#include "launch/inference/saved_model.h"
#include "launch/step/evaluation.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = eval_command().parse(args);
  const auto whole_number = [&](const char* option, int otherwise, int least, int most) {
    if (!line.has(option)) return otherwise;
    const auto value = parse_count(line.value(option));
    if (!value || *value < least || *value > most)
      throw InvalidArgument(fmt::format("--{} {}: must be a whole number in [{}, {}]", option,
                                        line.value(option), least, most));
    return static_cast<int>(*value);
  };
  const int threads = whole_number("threads", 0, 0, 65536);
  int token_bytes = whole_number("token-bytes", 0, 2, 4);
  token_bytes = whole_number("data.token_bytes", token_bytes, 2, 4);

  const Device device = inference_device(line, context);
  SavedModel saved(line.value("checkpoint"), std::move(context.world),
                   {.threads = threads, .device = device});
  if (token_bytes == 0) token_bytes = saved.config().data.token_bytes;
  const TokenFile file = TokenFile::open(line.value("tokens"), token_bytes);
  const ModelConfig& model = saved.config().model;
  on_first_rank(saved.mesh().world(), [&] {
    file.check_vocabulary(model.vocab);
    return std::string();
  });
  const Evaluation result =
      evaluate(saved.model(), file,
               {.context = model.context, .per_batch = saved.config().train.micro_batch},
               saved.mesh(), saved.context());
  saved.shutdown();
  if (context.rank != 0) return exit_done;
  std::cout << fmt::format(
      "checkpoint  {}\ntokens      {} predicted of {}\nloss        {:.6f}\nperplexity  {:.4f}\n",
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
      .options =
          {{.name = "checkpoint",
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
            .help =
                "width of the tokens of a raw .npy file, 2 or 4; default: as the run was trained"},
           {.name = "data.token_bytes", .value = "N", .help = "the same"},
           device_option(),
           {.name = "threads",
            .value = "N",
            .help = "of each rank; default: the node's cores shared by its ranks"}},
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
