// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <span>

#include "launch/commands/command.h"
#include "launch/config/values.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/inference/sampler.h"
#include "launch/inference/saved_model.h"
#include "launch/machine/exit_code.h"
#include "runtime/copy.h"
#include "runtime/error.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

struct Request {
  std::string prompt;
  std::int64_t tokens = 0;  // at most that many new ones; 0 = as many as fit, up to 128
  int threads = 0;
  SamplingOptions sampling = {};
};

/// Collects what is wrong with the numbers of a command line.
class Numbers {
 public:
  explicit Numbers(const CommandLine& line) : line_(line) {}

  std::int64_t whole(const char* option, std::int64_t otherwise) {
    if (!line_.has(option)) return otherwise;
    const auto value = parse_count(line_.value(option));
    if (!value || *value < 0) refuse(option, "a whole number of at least 0");
    return value.value_or(otherwise);
  }
  double real(const char* option, double otherwise) {
    if (!line_.has(option)) return otherwise;
    const auto value = parse_real(line_.value(option));
    if (!value) refuse(option, "a number");
    return value.value_or(otherwise);
  }
  std::vector<std::string> violations;

 private:
  void refuse(const char* option, const char* allowed) {
    violations.push_back(fmt::format("--{} {}: must be {}", option, line_.value(option), allowed));
  }
  const CommandLine& line_;
};

Request read_request(const CommandLine& line) {
  Numbers numbers(line);
  Request request{.prompt = line.value("prompt"), .tokens = numbers.whole("tokens", 0)};
  request.threads = static_cast<int>(std::min<std::int64_t>(numbers.whole("threads", 0), 65536));
  request.sampling = {.temperature = numbers.real("temperature", 1.0),
                      .top_k = numbers.whole("top-k", 0),
                      .top_p = numbers.real("top-p", 1.0),
                      .seed = static_cast<std::uint64_t>(numbers.whole("seed", 0))};
  for (const std::string& violation : request.sampling.violations())
    numbers.violations.push_back(violation);
  refuse_violations("generate", numbers.violations);
  return request;
}

/// The ids that generation starts from: the prompt's, or the end of the document before.
std::vector<std::int32_t> first_ids(const Request& request, const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  tokenizer.encode(request.prompt, ids);
  if (ids.empty()) ids.push_back(tokenizer.end_of_document());
  return ids;
}

std::int64_t new_tokens(const Request& request, std::int64_t prompt, std::int64_t context) {
  constexpr std::int64_t usual = 128;
  const std::int64_t room = context - prompt;
  if (room < 1 || request.tokens > room)
    throw InvalidArgument(
        fmt::format("--prompt of {} tokens and --tokens {}: together at most model.context = {}",
                    prompt, request.tokens > 0 ? request.tokens : 1, context));
  return request.tokens > 0 ? request.tokens : std::min(usual, room);
}

/// Draws token after token and hands each to `show` until it returns false. Every rank runs the
/// model; rank 0 draws.
void generate(SavedModel& saved, const Request& request, std::vector<std::int32_t> ids,
              std::int64_t count, std::int64_t vocab,
              const std::function<bool(std::int32_t)>& show) {
  const ModelConfig& model = saved.config().model;
  ExecutionContext& context = saved.context();
  Communicator& world = saved.mesh().world();
  DecodingCache cache(model, model.context, saved.dtype(), context.stream.device());
  Sampler sampler(request.sampling);
  for (std::int64_t i = 0; i < count; ++i) {
    const Arena::Scope scope(context.arena);
    const Tensor tokens =
        context.arena.allocate({static_cast<std::int64_t>(ids.size())}, DType::i32);
    set_values(std::span<const std::int32_t>(ids), tokens, context.stream);
    const Tensor logits = saved.model().next_token_logits(tokens, cache, context);
    const std::vector<float> values = host_values<float>(logits, context.stream);
    // A vocabulary that was padded has ids that stand for nothing.
    const auto choices = std::span(values).first(static_cast<std::size_t>(vocab));
    std::int32_t id = 0;
    if (world.rank() == 0) id = static_cast<std::int32_t>(sampler.draw(choices));
    world.broadcast(Tensor(&id, {1}, DType::i32, Device::cpu()), 0, context.stream);
    if (!show(id)) return;
    ids.assign(1, id);
  }
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = generate_command().parse(args);
  const Request request = read_request(line);
  const Device device = inference_device(line, context);
  SavedModel saved(line.value("checkpoint"), std::move(context.world),
                   {.threads = request.threads, .device = device});
  const ModelConfig& model = saved.config().model;
  const auto tokenizer =
      load_run_tokenizer(line.value("tokenizer"), line.value("checkpoint"), model.vocab);
  std::vector<std::int32_t> ids = first_ids(request, *tokenizer);
  const std::int64_t count =
      new_tokens(request, static_cast<std::int64_t>(ids.size()), model.context);

  const bool shows = context.rank == 0;
  TextStream text(*tokenizer);
  if (shows) std::cout << request.prompt << std::flush;
  generate(saved, request, std::move(ids), count, tokenizer->vocab(), [&](std::int32_t id) {
    if (id == tokenizer->end_of_document()) return false;
    if (shows) std::cout << text.add(id) << std::flush;
    return true;
  });
  if (shows) std::cout << text.finish() << std::endl;
  saved.shutdown();
  return exit_done;
}

}  // namespace

const Command& generate_command() {
  static const Command command = {
      .name = "generate",
      .summary = "Continues a text with a trained model",
      .arguments = "",
      .options = {{.name = "checkpoint",
                   .value = "DIR",
                   .help = "a checkpoint, or a run directory: then its newest valid one",
                   .required = true},
                  {.name = "prompt",
                   .value = "TEXT",
                   .help = "what to continue; empty: a new document",
                   .required = true},
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
