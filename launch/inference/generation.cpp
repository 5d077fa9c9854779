// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/generation.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "moe/decoding_cache.h"
#include "runtime/copy.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// Longest end of `text` that begins `stop`, which it does not hold.
std::size_t beginning_at_end(std::string_view text, std::string_view stop) {
  for (std::size_t size = std::min(text.size(), stop.size() - 1); size > 0; --size)
    if (text.ends_with(stop.substr(0, size))) return size;
  return 0;
}

}  // namespace

void check_room(std::int64_t prompt, std::int64_t context, const GenerationRequest& request) {
  if (prompt >= context)
    throw InvalidArgument(
        fmt::format("--prompt of {} tokens: must be shorter than model.context = "
                    "{}",
                    prompt, context));
  if (!request.beyond_context && prompt + request.tokens > context)
    throw InvalidArgument(fmt::format(
        "--prompt of {} tokens and --tokens {}: together at most model.context = {}, or "
        "--beyond-context",
        prompt, request.tokens, context));
}

std::string end_text(const Generation& generation) {
  switch (generation.end) {
    case GenerationEnd::document:
      return "the end of the document";
    case GenerationEnd::stop_text:
      return "the stop text \"" + generation.stop + "\"";
    case GenerationEnd::tokens:
      break;
  }
  return fmt::format("--tokens {}", generation.tokens);
}

std::string StopFilter::add(std::string_view text) {
  if (!stopped_.empty()) return {};
  held_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    stopped_ = stop;
  }
  std::size_t shown = first;
  if (stopped_.empty()) {
    std::size_t held = 0;
    for (const std::string& stop : stops_) held = std::max(held, beginning_at_end(held_, stop));
    shown = held_.size() - held;
  }
  std::string result = held_.substr(0, shown);
  held_.erase(0, shown);
  if (!stopped_.empty()) held_.clear();
  return result;
}

std::string StopFilter::finish() { return std::exchange(held_, {}); }

Generation generate(SavedModel& saved, const Tokenizer& tokenizer, const GenerationRequest& request,
                    const std::function<void(const std::string&)>& show) {
  const ModelConfig& model = saved.config().model;
  ExecutionContext& context = saved.context();
  Communicator& world = saved.mesh().world();
  std::vector<std::int32_t> ids = tokenizer.encode_prompt(request.prompt);
  std::vector<std::int32_t> seen = ids;
  Generation result{.prompt_tokens = static_cast<std::int64_t>(ids.size())};
  check_room(result.prompt_tokens, model.context, request);
  const auto new_cache = [&] {
    return std::make_unique<DecodingCache>(model, model.context, saved.dtype(),
                                           context.stream.device());
  };
  auto cache = new_cache();
  Sampler sampler(request.sampling);
  TextStream text(tokenizer);
  StopFilter stops(request.stops);
  const auto add = [&](const std::string& part) {
    const std::string allowed = stops.add(part);
    result.text += allowed;
    if (!allowed.empty()) show(allowed);
  };
  while (result.tokens < request.tokens && stops.stopped().empty()) {
    const Arena::Scope scope(context.arena);
    if (cache->length() + static_cast<std::int64_t>(ids.size()) > model.context) {
      // Positions cannot be moved in the cache: the last half is read anew.
      const auto half = std::max<std::int64_t>(model.context / 2, 1);
      ids.assign(seen.end() - half, seen.end());
      cache = new_cache();
    }
    const Tensor tokens =
        context.arena.allocate({static_cast<std::int64_t>(ids.size())}, DType::i32);
    set_values(std::span<const std::int32_t>(ids), tokens, context.stream);
    const Tensor logits = saved.model().next_token_logits(tokens, *cache, context);
    const std::vector<float> values = host_values<float>(logits, context.stream);
    // A vocabulary that was padded has ids that stand for nothing.
    const auto choices = std::span(values).first(static_cast<std::size_t>(tokenizer.vocab()));
    std::int32_t id = 0;
    if (world.rank() == 0) id = static_cast<std::int32_t>(sampler.draw(choices));
    world.broadcast(Tensor(&id, {1}, DType::i32, Device::cpu()), 0, context.stream);
    ++result.tokens;
    if (id == tokenizer.end_of_document()) {
      result.end = GenerationEnd::document;
      break;
    }
    add(text.add(id));
    ids.assign(1, id);
    seen.push_back(id);
  }
  if (stops.stopped().empty()) {
    add(text.finish());
    const std::string rest = stops.finish();
    result.text += rest;
    if (!rest.empty()) show(rest);
  }
  if (!stops.stopped().empty()) {
    result.end = GenerationEnd::stop_text;
    result.stop = stops.stopped();
  }
  return result;
}

}  // namespace polymoe
