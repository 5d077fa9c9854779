// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_run.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/parallel_for.h"
#include "kernels/matmul/matmul.h"
#include "launch/data/tokenizer.h"
#include "launch/evaluation/likelihood.h"
#include "launch/evaluation/scoring_pass.h"
#include "launch/evaluation/task_file.h"
#include "launch/evaluation/task_scores.h"
#include "launch/inference/answering_model.h"
#include "launch/inference/decoding.h"
#include "runtime/error.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

[[noreturn]] void fail(const Task& task, const TaskItem& item, const std::string& cause) {
  throw InputFileError(fmt::format("{}, line {}", task.path.string(), item.line), cause);
}

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// Contexts with their continuations as tokens; a context that comes again is encoded once.
class ContextEncoder {
 public:
  explicit ContextEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The continuation's tokens are those that are predicted.
  LikelihoodRequest encode(std::string context, const std::string& text) {
    std::string continuation = text;
    while (context.ends_with(' ')) {
      context.pop_back();
      continuation.insert(0, " ");
    }
    if (front_.empty() || context != context_) {
      front_ = tokenizer_.before_text();
      tokenizer_.encode(context, front_);
    }
    LikelihoodRequest request{.tokens = tokenizer_.before_text()};
    tokenizer_.encode(context + continuation, request.tokens);
    request.predicted =
        static_cast<std::int64_t>(request.tokens.size()) - static_cast<std::int64_t>(front_.size());
    if (front_.empty()) request.tokens.insert(request.tokens.begin(), tokenizer_.end_of_document());
    context_ = std::move(context);
    return request;
  }

 private:
  const Tokenizer& tokenizer_;
  std::string context_;
  std::vector<std::int32_t> front_;  // of that context
};

/// The text before the first of the ends; whether there is one.
bool cut_at_end(std::string& text, const std::vector<std::string>& ends) {
  std::size_t first = std::string::npos;
  for (const std::string& end : ends) first = std::min(first, text.find(end));
  if (first == std::string::npos) return false;
  text.resize(first);
  return true;
}

}  // namespace

struct PreparedTask::EncodedItem {
  const TaskItem& item;
  std::size_t number = 0;
  TaskAnswer blank = {};
  std::vector<std::int32_t> context = {};  // of an answer to generate
  std::vector<LikelihoodRequest> requests = {};
  std::vector<Place> places = {};
  std::string fault = {};
};

PreparedTask::PreparedTask(Task task, const Tokenizer& tokenizer, std::int64_t window)
    : task_(std::move(task)), tokenizer_(tokenizer), window_(window) {
  const Stopwatch watch;
  std::vector<EncodedItem> encoded;
  for (std::size_t i = 0; i < task_.items.size(); ++i)
    encoded.push_back({.item = task_.items[i], .number = i});
  cpu::parallel_for(static_cast<std::int64_t>(encoded.size()), [&](std::int64_t i) {
    EncodedItem& one = encoded[static_cast<std::size_t>(i)];
    task_.generates ? encode_context(one) : encode_choices(one);
  });
  for (EncodedItem& one : encoded) {
    // The first of them, whichever thread came to what.
    if (!one.fault.empty()) fail(task_, one.item, one.fault);
    blank_.push_back(std::move(one.blank));
    contexts_.push_back(std::move(one.context));
    std::ranges::move(one.requests, std::back_inserter(requests_));
    places_.insert(places_.end(), one.places.begin(), one.places.end());
  }
  preparing_seconds_ = watch.seconds();
}

void PreparedTask::encode_context(EncodedItem& to) const {
  to.context = tokenizer_.encode_prompt(to.item.context);
  if (std::ssize(to.context) <= window_) return;
  const std::int64_t kept = std::max(window_ + 1 - to.item.max_tokens, (window_ + 1) / 2);
  to.context.erase(to.context.begin(), to.context.end() - kept);
  to.blank.cut = true;
}

void PreparedTask::encode_choices(EncodedItem& to) const {
  const TaskItem& item = to.item;
  TaskAnswer& answer = to.blank;
  answer.log_likelihoods.resize(item.choices.size());
  answer.without_question.resize(item.contexts_without.size());
  ContextEncoder with_question(tokenizer_), without_question(tokenizer_);
  for (std::size_t c = 0; c < item.choices.size(); ++c) {
    const Place place{.item = to.number, .choice = c, .without_question = false};
    LikelihoodRequest request = with_question.encode(item.context_of(c), item.choices[c]);
    answer.tokens.push_back(request.predicted);
    answer.cut = answer.cut || static_cast<std::int64_t>(request.tokens.size()) - 1 > window_;
    add_request(to, std::move(request), place);
    if (item.contexts_without.empty()) continue;
    add_request(to, without_question.encode(item.contexts_without[c], item.choices[c]),
                {.item = to.number, .choice = c, .without_question = true});
  }
}

void PreparedTask::add_request(EncodedItem& to, LikelihoodRequest request,
                               const Place& place) const {
  if (request.predicted < 1) {
    if (to.fault.empty())
      to.fault = fmt::format(
          "choice {} (from 0) has no tokens of its own after its context: counted are those that "
          "context and choice have together beyond the context's alone, and the tokenizer joins "
          "the two; a blank at the beginning of the choice keeps most apart",
          place.choice);
    return;
  }
  // What is asked with the question and without it has nothing in common.
  request.group = static_cast<std::int64_t>(2 * place.item) + (place.without_question ? 1 : 0);
  // What is longer than the window is predicted in parts, each from what stands before it.
  const std::int64_t most = std::max<std::int64_t>(1, window_ / 2);
  for (std::int64_t left = request.predicted, predicted = 0; left > 0; left -= predicted) {
    const auto end = request.tokens.end() - left;
    predicted = request.predicted > window_ ? std::min(left, most) : left;
    // No pass reads what lies further back than the window.
    const auto begin = end + predicted - request.tokens.begin() > window_ + 1
                           ? end + predicted - (window_ + 1)
                           : request.tokens.begin();
    to.requests.push_back(
        {.tokens = {begin, end + predicted}, .predicted = predicted, .group = request.group});
    to.places.push_back(place);
  }
}

std::optional<TaskAnswers> PreparedTask::generated(const AnsweringModel& answering,
                                                   const ProgressOutput& output) const {
  TaskAnswers answers{.items = blank_, .work = {.preparing_seconds = preparing_seconds_}};
  const Stopwatch watch;
  Progress progress(output, {.what = task_.name, .total = std::ssize(blank_), .unit = "items"});
  std::vector<DecodingRequest> requests;  // an item's each
  for (std::size_t i = 0; i < blank_.size(); ++i) {
    const std::int64_t room = window_ + 1 - std::ssize(contexts_[i]);
    requests.push_back({.prompt = contexts_[i],
                        .tokens = std::min(task_.items[i].max_tokens, room),
                        .sampling = {.temperature = 0.0}});
  }
  std::vector<std::vector<std::int32_t>> ids(requests.size());
  const auto take = [&](std::size_t item, std::int32_t id) {
    TaskAnswer& answer = answers.items[item];
    bool over = id == tokenizer_.end_of_document();
    if (!over) {
      ids[item].push_back(id);
      answer.generated = tokenizer_.decode(ids[item]);
      over = cut_at_end(answer.generated, task_.items[item].until);
    }
    if (!over && std::ssize(ids[item]) == requests[item].tokens) {
      over = true;
      answer.ended_by_window = requests[item].tokens < task_.items[item].max_tokens;
    }
    if (over) progress.advance();
    return !over;
  };
  std::optional<DecodingWork> work;
  try {
    work = continue_all(answering, requests, tokenizer_.vocab(), take);
  } catch (const NotFiniteError& error) {
    throw NotFiniteError(fmt::format("{}: {}", task_.path.string(), error.what()));
  }
  if (!work) return std::nullopt;
  answers.work.tokens = answers.work.computed_tokens = work->tokens;
  answers.work.first_pass_tokens = work->first_tokens;
  answers.work.first_pass_seconds = work->first_seconds;
  answers.work.model_seconds = watch.seconds();
  return answers;
}

/// Where a likelihood is not finite the choice would be an accident: the first one by default.
void PreparedTask::check_finite(const TaskAnswer& answer, const TaskItem& item) const {
  for (const auto& [values, name] :
       {std::pair(&answer.log_likelihoods, "log-likelihood"),
        std::pair(&answer.without_question, "log-likelihood without the question")})
    for (std::size_t c = 0; c < values->size(); ++c)
      if (const double value = (*values)[c]; !std::isfinite(value))
        throw NotFiniteError(fmt::format(
            "{}, line {}: the {} of choice {} is {}: the model's values are not finite",
            task_.path.string(), item.line, name, c, std::isnan(value) ? "nan" : "infinite"));
}

std::optional<TaskAnswers> PreparedTask::answer(const AnsweringModel& answering,
                                                const ProgressOutput& output) const {
  const double waited_before = answering.context.stream.waited_seconds();
  std::optional<TaskAnswers> answers =
      task_.generates ? generated(answering, output) : chosen(answering, output);
  if (answers)
    answers->work.waiting_seconds = answering.context.stream.waited_seconds() - waited_before;
  return answers;
}

std::optional<TaskAnswers> PreparedTask::chosen(const AnsweringModel& answering,
                                                const ProgressOutput& output) const {
  TaskAnswers answers{.items = blank_, .work = {.preparing_seconds = preparing_seconds_}};
  // Its many sizes may take less than timing them would, and it costs the same at any age of a run.
  const UntimedProducts untimed(answering.context.stream);
  const Stopwatch watch;
  Progress progress(output, {.what = task_.name,
                             .total = static_cast<std::int64_t>(requests_.size()),
                             .unit = "requests"});
  const auto found =
      log_likelihoods(answering, requests_, [&](std::int64_t count) { progress.advance(count); });
  if (!found) return std::nullopt;
  for (std::size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    TaskAnswer& answer = answers.items[place.item];
    (place.without_question ? answer.without_question : answer.log_likelihoods)[place.choice] +=
        found->values[i];
    answers.work.tokens += static_cast<std::int64_t>(inputs_of(requests_[i], window_).size());
  }
  for (std::size_t i = 0; i < answers.items.size(); ++i)
    check_finite(answers.items[i], task_.items[i]);
  answers.work.computed_tokens = found->computed_tokens;
  answers.work.first_pass_tokens = found->first_pass_tokens;
  answers.work.first_pass_seconds = found->first_pass_seconds;
  answers.work.model_seconds = watch.seconds();
  return answers;
}

}  // namespace polymoe
