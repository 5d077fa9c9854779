// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_run.h"

#include <fmt/format.h>

#include <algorithm>

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
  std::vector<std::int32_t> front;
  tokenizer.encode(context, front);
  tokenizer.encode(context + continuation, request.tokens);
  if (front.empty()) {
    request.predicted = static_cast<std::int64_t>(request.tokens.size());
    request.tokens.insert(request.tokens.begin(), tokenizer.end_of_document());
  } else {
    request.predicted =
        static_cast<std::int64_t>(request.tokens.size()) - static_cast<std::int64_t>(front.size());
  }
  return request;
}

class LikelihoodTask {
 public:
  LikelihoodTask(const AnsweringModel& answering, const Tokenizer& tokenizer, const Task& task)
      : window_(answering.model.config().context), task_(task), answers_(task.items.size()) {
    for (std::size_t i = 0; i < task.items.size(); ++i) add_item(tokenizer, i);
  }

  std::optional<std::vector<TaskAnswer>> run(const AnsweringModel& answering,
                                             const ProgressOutput& output) && {
    Progress progress(output, {.what = task_.name,
                               .total = static_cast<std::int64_t>(requests_.size()),
                               .unit = "requests"});
    const auto values =
        log_likelihoods(answering, requests_, [&](std::int64_t count) { progress.advance(count); });
    if (!values) return std::nullopt;
    for (std::size_t i = 0; i < values->size(); ++i) *places_[i] += (*values)[i];
    return std::move(answers_);
  }

 private:
  void add_item(const Tokenizer& tokenizer, std::size_t i) {
    const TaskItem& item = task_.items[i];
    TaskAnswer& answer = answers_[i];
    answer.log_likelihoods.resize(item.choices.size());
    answer.without_question.resize(item.contexts_without.size());
    for (std::size_t c = 0; c < item.choices.size(); ++c) {
      const LikelihoodRequest request =
          add(tokenizer, i, item.context_of(c), c, answer.log_likelihoods[c]);
      answer.tokens.push_back(request.predicted);
      answer.cut = answer.cut || static_cast<std::int64_t>(request.tokens.size()) - 1 > window_;
      if (!item.contexts_without.empty())
        add(tokenizer, i, item.contexts_without[c], c, answer.without_question[c]);
    }
  }

  /// The whole of it.
  LikelihoodRequest add(const Tokenizer& tokenizer, std::size_t i, const std::string& context,
                        std::size_t choice, double& place) {
    const TaskItem& item = task_.items[i];
    LikelihoodRequest request = encode(tokenizer, context, item.choices[choice]);
    if (request.predicted < 1)
      fail(task_, item,
           fmt::format("choice {} has no tokens of its own after its context", choice));
    request.group = static_cast<std::int64_t>(i);
    // What is longer than the window is predicted in parts, each from what stands before it.
    const std::int64_t most = std::max<std::int64_t>(1, window_ / 2);
    LikelihoodRequest part = request;
    for (std::int64_t left = request.predicted; left > 0; left -= part.predicted) {
      const auto end = request.tokens.end() - left;
      part.predicted = request.predicted > window_ ? std::min(left, most) : left;
      part.tokens.assign(request.tokens.begin(), end + part.predicted);
      requests_.push_back(part);
      places_.push_back(&place);
    }
    return request;
  }

  std::int64_t window_;
  const Task& task_;
  std::vector<TaskAnswer> answers_;
  std::vector<LikelihoodRequest> requests_;
  std::vector<double*> places_;  // of the values, in answers_
};

/// The text before the first of the ends; whether there is one.
bool cut_at_end(std::string& text, const std::vector<std::string>& ends) {
  std::size_t first = std::string::npos;
  for (const std::string& end : ends) first = std::min(first, text.find(end));
  if (first == std::string::npos) return false;
  text.resize(first);
  return true;
}

/// Every rank runs the model on the same tokens, as its experts need it.
TaskAnswer generate(const AnsweringModel& answering, const Tokenizer& tokenizer,
                    const TaskItem& item) {
  const ModelConfig& config = answering.model.config();
  ExecutionContext& context = answering.context;
  std::vector<std::int32_t> ids;
  tokenizer.encode(item.context, ids);
  if (ids.empty()) ids.push_back(tokenizer.end_of_document());
  TaskAnswer answer;
  const std::int64_t room = std::max<std::int64_t>(config.context - item.max_tokens, 1);
  if (static_cast<std::int64_t>(ids.size()) > room) {
    ids.erase(ids.begin(), ids.end() - room);
    answer.cut = true;
  }
  DecodingCache cache(config, config.context, answering.dtype, context.stream.device());
  Sampler sampler({.temperature = 0.0});
  std::vector<std::int32_t> generated;
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
    answer.generated = tokenizer.decode(generated);
    if (cut_at_end(answer.generated, item.until)) break;
    ids.assign(1, id);
  }
  return answer;
}

}  // namespace

std::optional<std::vector<TaskAnswer>> answer_task(const AnsweringModel& answering,
                                                   const Tokenizer& tokenizer, const Task& task,
                                                   const ProgressOutput& progress) {
  if (!task.generates) return LikelihoodTask(answering, tokenizer, task).run(answering, progress);
  Progress shown(
      progress,
      {.what = task.name, .total = static_cast<std::int64_t>(task.items.size()), .unit = "items"});
  std::vector<TaskAnswer> answers;
  for (const TaskItem& item : task.items) {
    if (answering.leave && answering.leave()) return std::nullopt;
    answers.push_back(generate(answering, tokenizer, item));
    shown.advance();
  }
  return answers;
}

}  // namespace polymoe
