// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_run.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "launch/inference/sampler.h"
#include "runtime/copy.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

[[noreturn]] void fail(const Task& task, const TaskItem& item, const std::string& cause) {
  throw InputFileError(fmt::format("{}, line {}", task.path.string(), item.line), cause);
}

/// Context and continuation as tokens, the continuation's predicted.
LikelihoodRequest encode(const Tokenizer& tokenizer, std::string context, const std::string& text) {
  std::string continuation = text;
  while (context.ends_with(' ')) {
    context.pop_back();
    continuation.insert(0, " ");
  }
  LikelihoodRequest request;
  std::vector<std::int32_t> front = tokenizer.before_text();
  request.tokens = front;
  tokenizer.encode(context, front);
  tokenizer.encode(context + continuation, request.tokens);
  request.predicted =
      static_cast<std::int64_t>(request.tokens.size()) - static_cast<std::int64_t>(front.size());
  if (front.empty()) request.tokens.insert(request.tokens.begin(), tokenizer.end_of_document());
  return request;
}

/// The text before the first of the ends; whether there is one.
bool cut_at_end(std::string& text, const std::vector<std::string>& ends) {
  std::size_t first = std::string::npos;
  for (const std::string& end : ends) first = std::min(first, text.find(end));
  if (first == std::string::npos) return false;
  text.resize(first);
  return true;
}

/// Every rank runs the model on the same tokens, as its experts need it.
std::string generate(const AnsweringModel& answering, const Tokenizer& tokenizer,
                     const TaskItem& item, std::vector<std::int32_t> ids) {
  const ModelConfig& config = answering.model.config();
  ExecutionContext& context = answering.context;
  DecodingCache cache(config, config.context, answering.dtype, context.stream.device());
  Sampler sampler({.temperature = 0.0});
  std::vector<std::int32_t> generated;
  std::string text;
  const std::int64_t most =
      std::min(item.max_tokens, config.context - static_cast<std::int64_t>(ids.size()));
  for (std::int64_t i = 0; i < most; ++i) {
    const Arena::Scope scope(context.arena);
    const Tensor tokens =
        context.arena.allocate({static_cast<std::int64_t>(ids.size())}, DType::i32);
    set_values(std::span<const std::int32_t>(ids), tokens, context.stream);
    const Tensor logits = answering.model.next_token_logits(tokens, cache, context);
    const std::vector<float> values = host_values<float>(logits, context.stream);
    auto id = static_cast<std::int32_t>(
        sampler.draw(std::span(values).first(static_cast<std::size_t>(tokenizer.vocab()))));
    answering.mesh.world().broadcast(Tensor(&id, {1}, DType::i32, Device::cpu()), 0,
                                     context.stream);
    if (id == tokenizer.end_of_document()) break;
    generated.push_back(id);
    text = tokenizer.decode(generated);
    if (cut_at_end(text, item.until)) break;
    ids.assign(1, id);
  }
  return text;
}

}  // namespace

PreparedTask::PreparedTask(Task task, const Tokenizer& tokenizer, std::int64_t window)
    : task_(std::move(task)), tokenizer_(tokenizer), window_(window), blank_(task_.items.size()) {
  for (std::size_t i = 0; i < task_.items.size(); ++i)
    if (task_.generates)
      add_context(i);
    else
      add_choices(i);
}

void PreparedTask::add_context(std::size_t i) {
  const TaskItem& item = task_.items[i];
  std::vector<std::int32_t> ids = tokenizer_.encode_prompt(item.context);
  const std::int64_t room = std::max<std::int64_t>(window_ - item.max_tokens, 1);
  if (static_cast<std::int64_t>(ids.size()) > room) {
    ids.erase(ids.begin(), ids.end() - room);
    blank_[i].cut = true;
  }
  contexts_.push_back(std::move(ids));
}

void PreparedTask::add_choices(std::size_t i) {
  const TaskItem& item = task_.items[i];
  TaskAnswer& answer = blank_[i];
  answer.log_likelihoods.resize(item.choices.size());
  answer.without_question.resize(item.contexts_without.size());
  for (std::size_t c = 0; c < item.choices.size(); ++c) {
    const LikelihoodRequest request =
        add(item.context_of(c), {.item = i, .choice = c, .without_question = false});
    answer.tokens.push_back(request.predicted);
    answer.cut = answer.cut || static_cast<std::int64_t>(request.tokens.size()) - 1 > window_;
    if (!item.contexts_without.empty())
      add(item.contexts_without[c], {.item = i, .choice = c, .without_question = true});
  }
}

/// The whole of it.
LikelihoodRequest PreparedTask::add(const std::string& context, const Place& place) {
  const TaskItem& item = task_.items[place.item];
  LikelihoodRequest request = encode(tokenizer_, context, item.choices[place.choice]);
  if (request.predicted < 1)
    fail(task_, item,
         fmt::format("choice {} has no tokens of its own after its context", place.choice));
  request.group = static_cast<std::int64_t>(place.item);
  // What is longer than the window is predicted in parts, each from what stands before it.
  const std::int64_t most = std::max<std::int64_t>(1, window_ / 2);
  LikelihoodRequest part = request;
  for (std::int64_t left = request.predicted; left > 0; left -= part.predicted) {
    const auto end = request.tokens.end() - left;
    part.predicted = request.predicted > window_ ? std::min(left, most) : left;
    // No pass reads what lies further back than the window.
    const auto begin = end + part.predicted - request.tokens.begin() > window_ + 1
                           ? end + part.predicted - (window_ + 1)
                           : request.tokens.begin();
    part.tokens.assign(begin, end + part.predicted);
    requests_.push_back(part);
    places_.push_back(place);
  }
  return request;
}

std::optional<std::vector<TaskAnswer>> PreparedTask::answer(const AnsweringModel& answering,
                                                            const ProgressOutput& output) const {
  std::vector<TaskAnswer> answers = blank_;
  if (task_.generates) {
    Progress shown(output, {.what = task_.name,
                            .total = static_cast<std::int64_t>(task_.items.size()),
                            .unit = "items"});
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (answering.leave && answering.leave()) return std::nullopt;
      answers[i].generated = generate(answering, tokenizer_, task_.items[i], contexts_[i]);
      shown.advance();
    }
    return answers;
  }
  Progress progress(output, {.what = task_.name,
                             .total = static_cast<std::int64_t>(requests_.size()),
                             .unit = "requests"});
  const auto values =
      log_likelihoods(answering, requests_, [&](std::int64_t count) { progress.advance(count); });
  if (!values) return std::nullopt;
  for (std::size_t i = 0; i < values->size(); ++i) {
    const Place& place = places_[i];
    TaskAnswer& answer = answers[place.item];
    (place.without_question ? answer.without_question : answer.log_likelihoods)[place.choice] +=
        (*values)[i];
  }
  return answers;
}

}  // namespace polymoe
