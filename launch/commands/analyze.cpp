// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/analysis/analysis.h"
#include "launch/analysis/analysis_json.h"
#include "launch/analysis/analysis_page.h"
#include "launch/analysis/token_analysis.h"
#include "launch/analysis/weight_analysis.h"
#include "launch/checkpoints/resume.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/inference/saved_model.h"
#include "launch/machine/exit_code.h"
#include "launch/reports/drawing.h"
#include "launch/reports/page.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/new_directory.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

struct Settings {
  std::string checkpoint = {}, against = {}, tokens = {}, tokenizer = {};
  std::int64_t max_tokens = 65536;
  int threads = 0;
};

Settings settings_of(const CommandLine& line) {
  Settings settings{.checkpoint = line.value("checkpoint"),
                    .against = line.value("against"),
                    .tokens = line.value("tokens"),
                    .tokenizer = line.value("tokenizer")};
  const auto whole_number = [&](const char* option, std::int64_t otherwise, std::int64_t least) {
    if (!line.has(option)) return otherwise;
    const auto value = parse_count(line.value(option));
    if (!value || *value < least || *value > (std::int64_t{1} << 32))
      throw InvalidArgument(fmt::format("--{} {}: must be a whole number in [{}, 4294967296]",
                                        option, line.value(option), least));
    return *value;
  };
  settings.max_tokens = whole_number("max-tokens", settings.max_tokens, 1);
  settings.threads = static_cast<int>(std::min<std::int64_t>(whole_number("threads", 0, 0), 65536));
  for (const char* option : {"against", "max-tokens", "tokenizer"})
    if (line.has(option) && !line.has("tokens"))
      throw InvalidArgument(fmt::format("--{}: needs --tokens", option));
  return settings;
}

TokenAnalysis look_inside(const std::string& checkpoint, const Settings& settings,
                          const ProgressOutput& progress) {
  std::optional<Elapsed> loading(std::in_place, progress, "loading " + checkpoint);
  SavedModel saved(checkpoint, std::move(make_local_communicators(1)[0]),
                   {.threads = settings.threads});
  loading.reset();
  const TokenFile file = TokenFile::open(settings.tokens, saved.config().data.token_bytes);
  file.check_vocabulary(saved.config().model.vocab);
  TokenAnalysis analysis = analyze_tokens(
      saved.model(), file, {.max_tokens = settings.max_tokens, .windows_per_batch = 0},
      saved.context(), progress);
  saved.shutdown();
  return analysis;
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = analyze_command().parse(args);
  const Settings settings = settings_of(line);
  NewDirectory directory(line.value("out"), "--out");
  const ProgressOutput progress = progress_on_stderr();
  std::vector<std::string> notes;
  const CheckpointReader checkpoint(resolve_checkpoint(settings.checkpoint, notes));
  for (const std::string& note : notes) std::cerr << note << "\n";
  const Config config = parse_config(checkpoint.info().config, checkpoint.directory().string(), {});
  Analysis analysis{.checkpoint = checkpoint.directory().string(),
                    .step = checkpoint.info().step,
                    .activation = name_of(config.model.activation.kind)};
  std::unique_ptr<Tokenizer> tokenizer;
  if (!settings.tokens.empty()) {
    try {
      tokenizer = load_run_tokenizer(settings.tokenizer, settings.checkpoint, config.model.vocab);
    } catch (const InvalidArgument&) {
      std::cout << "the run remembers no tokenizer: tokens are shown by their ids\n";
    }
    analysis.tokens = look_inside(checkpoint.directory().string(), settings, progress);
    if (!settings.against.empty())
      analysis.saturation =
          routing_saturation(look_inside(settings.against, settings, progress), *analysis.tokens);
  }
  analysis.spectra = matrix_spectra(checkpoint, config.model, progress);
  analysis.similarities = expert_similarities(checkpoint, config.model, progress);
  analysis.coefficients = coefficient_histories(checkpoint);

  replace_file(directory.partial() / "analysis.json",
               analysis_json(analysis, tokenizer.get()).dump() + "\n");
  const Page page = analysis_page(analysis, tokenizer.get());
  replace_file(directory.partial() / "analysis.html", page.html());
  for (std::size_t i = 0; i < page.pictures().size(); ++i)
    replace_file(directory.partial() / fmt::format("figure-{:02}.svg", i + 1),
                 svg_file(page.pictures()[i]));
  directory.complete();
  std::cout << fmt::format("{}: analysis.json, analysis.html with {} figures, each as SVG too\n",
                           line.value("out"), page.figures());
  return exit_done;
}

}  // namespace

const Command& analyze_command() {
  static const Command command = {
      .name = "analyze",
      .summary = "Looks inside a checkpoint: ranks of its weights, experts, routing, activations",
      .arguments = "",
      .options = {{.name = "checkpoint",
                   .value = "DIR",
                   .help = "a checkpoint, or a run directory: then its newest valid one",
                   .required = true},
                  {.name = "out",
                   .value = "DIR",
                   .help = "new: analysis.json, analysis.html and a picture per figure",
                   .required = true},
                  {.name = "tokens",
                   .value = "FILE",
                   .help = "a token file, for hidden states, routing and what the activation sees"},
                  {.name = "max-tokens", .value = "N", .help = "of that file; default 65536"},
                  {.name = "against",
                   .value = "DIR",
                   .help = "another checkpoint of the run: how many choices of experts they share"},
                  {.name = "tokenizer",
                   .value = "MODEL",
                   .help = "to show tokens as text; default: the one that the run remembers"},
                  {.name = "threads", .value = "N", .help = "default: the machine's cores"}},
      .ranks = false,
      .run = run};
  return command;
}

}  // namespace polymoe
