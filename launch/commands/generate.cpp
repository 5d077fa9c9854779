// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/commands/given_prompts.h"
#include "launch/config/values.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/inference/generation.h"
#include "launch/inference/saved_model.h"
#include "launch/machine/exit_code.h"
#include "moe/model_config.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/log.h"
#include "runtime/progress.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

struct Settings {
  GenerationRequest request = {};  // tokens: 0 = as many as fit, up to 128
  int samples = 1;
  std::int64_t batch = 0;  // 0 = as memory has room for
  int threads = 0;
};

/// Collects what is wrong with the numbers of a command line.
class Numbers {
 public:
  explicit Numbers(const CommandLine& line) : line_(line) {}

  std::int64_t whole(const char* option, std::int64_t otherwise, std::int64_t least = 0) {
    if (!line_.has(option)) return otherwise;
    const auto value = parse_count(line_.value(option));
    if (!value || *value < least)
      refuse(option, fmt::format("a whole number of at least {}", least));
    return value.value_or(otherwise);
  }
  std::int64_t within(const char* option, std::int64_t otherwise, std::int64_t most) {
    if (!line_.has(option)) return otherwise;
    const auto value = parse_count(line_.value(option));
    if (value && *value >= 1 && *value <= most) return *value;
    refuse(option, fmt::format("a whole number in [1, {}]", most));
    return otherwise;
  }
  double real(const char* option, double otherwise) {
    if (!line_.has(option)) return otherwise;
    const auto value = parse_real(line_.value(option));
    if (!value) refuse(option, "a number");
    return value.value_or(otherwise);
  }
  std::vector<std::string> violations;

 private:
  void refuse(const char* option, const std::string& allowed) {
    violations.push_back(fmt::format("--{} {}: must be {}", option, line_.value(option), allowed));
  }
  const CommandLine& line_;
};

Settings read_settings(const CommandLine& line) {
  Numbers numbers(line);
  Settings settings;
  settings.threads = static_cast<int>(std::min<std::int64_t>(numbers.whole("threads", 0), 65536));
  settings.samples = static_cast<int>(numbers.within("samples", 1, 1 << 20));
  settings.batch = numbers.within("batch", 0, most_batch);
  GenerationRequest& request = settings.request;
  request.tokens = numbers.whole("tokens", 0, 1);
  request.beyond_context = line.has("beyond-context");
  request.stops = line.values("stop");
  request.sampling = {.temperature = numbers.real("temperature", 1.0),
                      .top_k = numbers.whole("top-k", 0),
                      .top_p = numbers.real("top-p", 1.0),
                      .seed = static_cast<std::uint64_t>(numbers.whole("seed", 0))};
  for (const std::string& violation : request.sampling.violations())
    numbers.violations.push_back(violation);
  if (std::any_of(request.stops.begin(), request.stops.end(),
                  [](const std::string& stop) { return stop.empty(); }))
    numbers.violations.emplace_back("--stop: must not be empty");
  std::vector<std::string> given;
  for (const std::string name : {"prompt", "prompt-file", "prompts", "interactive"})
    if (line.has(name)) given.push_back("--" + name);
  if (given.empty())
    numbers.violations.emplace_back(
        "--prompt TEXT, --prompt-file FILE, --prompts FILE or --interactive: one of them must be "
        "given");
  if (given.size() > 1)
    numbers.violations.push_back(
        fmt::format("{}: only one of them may be given", fmt::join(given, ", ")));
  refuse_violations("generate", numbers.violations);
  return settings;
}

/// How many tokens are drawn: what was asked for, else 128 or what fits.
std::int64_t new_tokens(const Settings& settings, std::int64_t prompt, std::int64_t context) {
  constexpr std::int64_t usual = 128;
  if (settings.request.tokens > 0 || settings.request.beyond_context)
    return settings.request.tokens > 0 ? settings.request.tokens : usual;
  return std::min(usual, std::max<std::int64_t>(context - prompt, 1));
}

/// Where samples go, in the order of the requests whichever is done first; only rank 0 has an
/// output.
class SampleOutput {
 public:
  SampleOutput(const std::vector<GivenPrompt>& prompts, int samples,
               const std::vector<GenerationRequest>& requests, const ProgressOutput& progress,
               bool json)
      : prompts_(prompts),
        requests_(requests),
        samples_(static_cast<std::size_t>(samples)),
        json_(json),
        answers_(requests.size()) {
    if (prompts.size() > 1 && !progress_on_stdout().terminal)
      progress_.emplace(
          progress,
          CountedWork{.what = "generating", .total = std::ssize(requests), .unit = "texts"});
  }

  void show(std::size_t request, const std::string& text) {
    if (json_) return;
    begin_first();
    if (request == front_)
      std::cout << text << std::flush;
    else
      answers_[request].text += text;
  }
  void done(std::size_t request, const Generation& result) {
    begin_first();
    answers_[request].result = result;
    if (progress_) progress_->advance();
    while (front_ < answers_.size() && answers_[front_].result) {
      end();
      answers_[front_++] = {};
      begin();
    }
  }

 private:
  struct Answer {
    std::string text;  // known, not shown yet
    std::optional<Generation> result;
  };

  /// A model that has no first token is refused before a prompt is shown.
  void begin_first() {
    if (!std::exchange(begun_, true)) begin();
  }
  /// The front's heading, and what is known of its text.
  void begin() {
    if (json_ || front_ == answers_.size()) return;
    std::string heading;
    if (prompts_.size() > 1)
      heading = fmt::format("prompt {} of {}", front_ / samples_ + 1, prompts_.size());
    if (samples_ > 1)
      heading += fmt::format("{}sample {} of {}, --seed {}", heading.empty() ? "" : ", ",
                             front_ % samples_ + 1, samples_, requests_[front_].sampling.seed);
    if (!heading.empty()) std::cout << "----- " << heading << "\n";
    std::cout << requests_[front_].prompt << answers_[front_].text << std::flush;
  }
  void end() {
    const GenerationRequest& request = requests_[front_];
    const Generation& result = *answers_[front_].result;
    if (!json_) {
      std::cout << std::endl;
      if (!progress_)
        std::cerr << fmt::format("[{} token{}; stopped at {}]\n", result.tokens,
                                 result.tokens == 1 ? "" : "s", end_text(result));
      return;
    }
    constexpr std::array ends = {"document", "stop", "tokens"};
    Json row = Json::object();
    const Json& id = prompts_[front_ / samples_].id;
    if (!id.is_null()) row.set("id", id);
    row.set("prompt", request.prompt)
        .set("text", result.text)
        .set("prompt_tokens", result.prompt_tokens)
        .set("tokens", result.tokens)
        .set("seed", static_cast<std::int64_t>(request.sampling.seed))
        .set("stopped_at", ends[static_cast<std::size_t>(result.end)]);
    if (result.end == GenerationEnd::stop_text) row.set("stop", result.stop);
    std::cout << row.dump() << std::endl;
  }

  const std::vector<GivenPrompt>& prompts_;
  const std::vector<GenerationRequest>& requests_;
  const std::size_t samples_;
  const bool json_;
  std::vector<Answer> answers_;
  std::size_t front_ = 0;  // that is shown
  bool begun_ = false;
  std::optional<Progress> progress_;
};

/// Each prompt as often as samples are wanted. Throws where one leaves no room for new tokens,
/// before any is shown.
std::vector<GenerationRequest> requests_of(const std::vector<GivenPrompt>& prompts,
                                           const Settings& settings, const Tokenizer& tokenizer,
                                           std::int64_t context) {
  std::vector<GenerationRequest> requests;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const GivenPrompt& prompt = prompts[i];
    GenerationRequest request = settings.request;
    request.prompt = prompt.text;
    request.text = i;
    const std::int64_t tokens = std::ssize(tokenizer.encode_prompt(prompt.text));
    request.tokens = new_tokens(settings, tokens, context);
    const std::string fault = room_fault(tokens, context, request);
    if (!fault.empty() && prompt.place.empty()) throw InvalidArgument("--prompt " + fault);
    if (!fault.empty()) throw InputFileError(prompt.place, "a prompt " + fault);
    for (int sample = 0; sample < settings.samples; ++sample, ++request.sampling.seed)
      requests.push_back(request);
  }
  return requests;
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = generate_command().parse(args);
  const Settings settings = read_settings(line);
  const std::vector<GivenPrompt> given = read_prompts(line, *context.world);
  const Device device = inference_device(line, context);
  const bool shows = context.rank == 0;
  const ProgressOutput progress = shows ? progress_on_stderr() : ProgressOutput{};
  std::optional<Elapsed> loading(std::in_place, progress, "loading " + line.value("checkpoint"));
  SavedModel saved(line.value("checkpoint"), std::move(context.world),
                   {.threads = settings.threads, .device = device, .batch = settings.batch});
  const ModelConfig& model = saved.config().model;
  Communicator& world = saved.mesh().world();
  const auto tokenizer =
      load_run_tokenizer(line.value("tokenizer"), line.value("checkpoint"), model.vocab);
  loading.reset();
  if (shows && line.has("tokenizer") && tokenizer->vocab() < model.vocab)
    Log(Log::alone)
        .warning(fmt::format("--tokenizer {}: has {} ids, the model {}: is it the one that the "
                             "model was trained with?",
                             line.value("tokenizer"), tokenizer->vocab(), model.vocab));

  const auto answer = [&](const std::vector<GivenPrompt>& prompts) {
    const auto requests = requests_of(prompts, settings, *tokenizer, model.context);
    std::optional<SampleOutput> output;
    if (shows) output.emplace(prompts, settings.samples, requests, progress, line.has("json"));
    const GenerationListener listener{
        .show =
            [&](std::size_t request, const std::string& text) {
              if (output) output->show(request, text);
            },
        .done =
            [&](std::size_t request, const Generation& result) {
              if (output) output->done(request, result);
            },
        // What nobody can read is not worth waiting for.
        .leave = [&] { return least_of_ranks(!shows || std::cout ? 1 : 0, world) == 0; }};
    finite_or_refused(saved, [&] { generate(saved, *tokenizer, requests, listener); });
  };
  if (line.has("interactive")) {
    const auto ask = [&] {
      if (shows) std::cerr << "> " << std::flush;
      return ask_for_prompt(world);
    };
    if (shows) std::cerr << "a line is continued; an empty one or Ctrl-D ends\n";
    for (auto prompt = ask(); prompt && !prompt->text.empty(); prompt = ask()) answer({*prompt});
  } else {
    answer(given);
  }
  saved.shutdown();
  return exit_done;
}

}  // namespace

const Command& generate_command() {
  static const Command command = {
      .name = "generate",
      .summary = "Continues a text with a trained model",
      .arguments = "",
      .options =
          {{.name = "checkpoint",
            .value = "DIR",
            .help = "a checkpoint, or a run directory: then its newest valid one",
            .required = true},
           {.name = "prompt", .value = "TEXT", .help = "what to continue; empty: a new document"},
           {.name = "prompt-file",
            .value = "FILE",
            .help = "the same from a file; - is standard input"},
           {.name = "prompts",
            .value = "FILE",
            .help =
                "many of them, answered together and in order: of a .jsonl file, also "
                ".gz or .zst, the `prompt` of each line, and maybe its `id`; else a line "
                "each. - is standard input; of it and of a name without an ending, as a pipe's, "
                "the first line tells which of both it has"},
           batch_option(),
           {.name = "interactive", .value = "", .help = "asks for prompts, line by line"},
           {.name = "samples",
            .value = "N",
            .help = "continuations, with the seeds that follow one another; default 1"},
           {.name = "stop", .value = "TEXT...", .help = "texts at which to end"},
           {.name = "beyond-context",
            .value = "",
            .help = "when the context is full, go on from its last half"},
           {.name = "json", .value = "", .help = "an object a line for each sample"},
           {.name = "tokens",
            .value = "N",
            .help = "at most that many new ones; default: 128, or what fits the context"},
           {.name = "temperature",
            .value = "T",
            .help = "below 1 bolder choices become rarer; 0: always the most probable "
                    "token; default 1"},
           {.name = "top-k", .value = "K", .help = "only the K most probable tokens"},
           {.name = "top-p",
            .value = "P",
            .help = "only the fewest tokens that together reach the probability P"},
           {.name = "seed", .value = "N", .help = "of the random choices; default 0"},
           {.name = "tokenizer",
            .value = "MODEL",
            .help = "a tokenizer.json, a sentencepiece model, or `bytes`; default: the one "
                    "that the run remembers"},
           device_option(),
           {.name = "threads",
            .value = "N",
            .help = "of each rank; default: the node's cores shared by its ranks"}},
      .ranks = true,
      .run = run};
  return command;
}

}  // namespace polymoe
