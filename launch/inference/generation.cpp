// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/generation.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/data/tokenizer.h"
#include "launch/inference/answering_model.h"
#include "launch/inference/decoding.h"
#include "launch/inference/saved_model.h"
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

std::string room_fault(std::int64_t prompt, std::int64_t context,
                       const GenerationRequest& request) {
  if (prompt >= context)
    return fmt::format("of {} tokens: must be shorter than model.context = {}", prompt, context);
  if (!request.beyond_context && request.tokens > context - prompt)
    return fmt::format(
        "of {} tokens and --tokens {}: together at most model.context = {}, or --beyond-context",
        prompt, request.tokens, context);
  return {};
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

namespace {

/// A text that grows by tokens.
class GrowingText {
 public:
  GrowingText(const Tokenizer& tokenizer, const GenerationRequest& request, std::int64_t prompt)
      : tokenizer_(tokenizer),
        text_(tokenizer),
        stops_(request.stops),
        tokens_left_(request.tokens),
        result_{.prompt_tokens = prompt} {}

  /// The text that is known by one more token. Nothing follows once over().
  std::string add(std::int32_t id) {
    ++result_.tokens;
    if (id == tokenizer_.end_of_document()) result_.end = GenerationEnd::document;
    std::string known;
    if (result_.end != GenerationEnd::document) known = stops_.add(text_.add(id));
    over_ =
        result_.end == GenerationEnd::document || !stops_.stopped().empty() || --tokens_left_ == 0;
    if (over_) known += rest();
    result_.text += known;
    return known;
  }
  bool over() const { return over_; }
  const Generation& result() const { return result_; }

 private:
  std::string rest() {
    std::string rest;
    if (stops_.stopped().empty()) rest = stops_.add(text_.finish());
    if (stops_.stopped().empty()) return rest + stops_.finish();
    result_.end = GenerationEnd::stop_text;
    result_.stop = stops_.stopped();
    return rest;
  }

  const Tokenizer& tokenizer_;
  TextStream text_;
  StopFilter stops_;
  std::int64_t tokens_left_;
  bool over_ = false;
  Generation result_;
};

}  // namespace

void generate(SavedModel& saved, const Tokenizer& tokenizer,
              const std::vector<GenerationRequest>& requests, const GenerationListener& listener) {
  std::vector<DecodingRequest> decoding;
  std::vector<GrowingText> texts;
  for (const GenerationRequest& request : requests) {
    decoding.push_back({.prompt = tokenizer.encode_prompt(request.prompt),
                        .tokens = request.tokens,
                        .sampling = request.sampling,
                        .text = request.text,
                        .beyond_context = request.beyond_context});
    const std::int64_t prompt = std::ssize(decoding.back().prompt);
    const std::string fault = room_fault(prompt, saved.config().model.context, request);
    if (!fault.empty()) throw InvalidArgument("a prompt " + fault);
    texts.emplace_back(tokenizer, request, prompt);
  }
  AnsweringModel answering = saved.answering();
  answering.leave = listener.leave;
  continue_all(answering, decoding, tokenizer.vocab(), [&](std::size_t request, std::int32_t id) {
    GrowingText& text = texts[request];
    const std::string known = text.add(id);
    if (!known.empty()) listener.show(request, known);
    if (text.over()) listener.done(request, text.result());
    return !text.over();
  });
}

}  // namespace polymoe
