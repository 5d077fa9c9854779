// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_scores.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/data/unicode_text.h"
#include "launch/evaluation/task_file.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

double characters_of(const std::string& text) {
  std::int64_t count = 0;
  for (std::size_t at = 0; at < text.size(); ++count) next_code_point(text, at);
  return static_cast<double>(count);
}

std::string without_blanks(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

Share share_of(std::int64_t right, std::int64_t items) {
  const double n = static_cast<double>(items), p = static_cast<double>(right) / n;
  return {.value = p, .error = std::sqrt(p * (1.0 - p) / n)};
}

/// sum(nats) / sum(bytes), in bits.
Share bits_per_byte_of(const std::vector<double>& nats, const std::vector<double>& bytes) {
  double all_nats = 0.0, all_bytes = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < nats.size(); ++i) {
    all_nats += nats[i];
    all_bytes += bytes[i];
  }
  const double ratio = all_nats / all_bytes, n = static_cast<double>(nats.size());
  for (std::size_t i = 0; i < nats.size(); ++i)
    squares += (nats[i] - ratio * bytes[i]) * (nats[i] - ratio * bytes[i]);
  const double error = n > 1.0 ? std::sqrt(squares * n / (n - 1.0)) / all_bytes : 0.0;
  return {.value = ratio / std::numbers::ln2, .error = error / std::numbers::ln2};
}

/// The mean of a score over tasks.
class MeanScore {
 public:
  void add(const Share& share) {
    sum_ += share.value;
    squares_ += share.error * share.error;
    ++count_;
  }
  bool any() const { return count_ > 0; }
  Share mean() const { return {.value = sum_ / count_, .error = std::sqrt(squares_) / count_}; }

 private:
  double sum_ = 0.0, squares_ = 0.0;
  int count_ = 0;
};

}  // namespace

std::size_t choice_of(const TaskItem& item, const TaskAnswer& answer, Normalization normalization) {
  const auto value = [&](std::size_t i) {
    const double likelihood = answer.log_likelihoods[i];
    switch (normalization) {
      case Normalization::none:
        return likelihood;
      case Normalization::characters:
        return likelihood / characters_of(item.choices[i]);
      case Normalization::bytes:
        return likelihood / static_cast<double>(item.choices[i].size());
      case Normalization::tokens:
        return likelihood / static_cast<double>(answer.tokens[i]);
      case Normalization::without_question:
        return likelihood - answer.without_question[i];
    }
    return likelihood;
  };
  std::size_t best = 0;
  for (std::size_t i = 1; i < item.choices.size(); ++i)
    if (value(i) > value(best)) best = i;
  return best;
}

bool is_exact_match(const TaskItem& item, const std::string& generated) {
  return std::any_of(item.answers.begin(), item.answers.end(), [&](const std::string& answer) {
    return without_blanks(answer) == without_blanks(generated);
  });
}

std::vector<std::pair<std::string, Share>> TaskScores::shares() const {
  std::vector<std::pair<std::string, Share>> list;
  const auto add = [&](const char* share_name, const std::optional<Share>& share) {
    if (share) list.emplace_back(share_name, *share);
  };
  add("acc", accuracy);
  add("acc_per_char", per_character);
  add("acc_per_byte", per_byte);
  add("acc_per_token", per_token);
  add("acc_uncond", less_unconditional);
  add("exact_match", exact_match);
  return list;
}

TaskScores score(const Task& task, const std::vector<TaskAnswer>& answers) {
  TaskScores scores{.name = task.name, .items = static_cast<std::int64_t>(task.items.size())};
  const auto items = task.items.size();
  for (const TaskAnswer& answer : answers) {
    scores.cut += answer.cut;
    scores.ended_by_window += answer.ended_by_window;
  }
  if (task.generates) {
    scores.requests = scores.items;
    std::int64_t right = 0;
    for (std::size_t i = 0; i < items; ++i)
      right += is_exact_match(task.items[i], answers[i].generated);
    scores.exact_match = share_of(right, scores.items);
    return scores;
  }
  const auto accuracy = [&](Normalization normalization) {
    std::int64_t right = 0;
    for (std::size_t i = 0; i < items; ++i)
      right += choice_of(task.items[i], answers[i], normalization) ==
               static_cast<std::size_t>(task.items[i].gold);
    return share_of(right, scores.items);
  };
  scores.accuracy = accuracy(Normalization::none);
  scores.per_character = accuracy(Normalization::characters);
  scores.per_byte = accuracy(Normalization::bytes);
  scores.per_token = accuracy(Normalization::tokens);
  if (std::none_of(answers.begin(), answers.end(),
                   [](const TaskAnswer& answer) { return answer.without_question.empty(); }))
    scores.less_unconditional = accuracy(Normalization::without_question);
  std::vector<double> nats, bytes;
  for (std::size_t i = 0; i < items; ++i) {
    const auto gold = static_cast<std::size_t>(task.items[i].gold);
    nats.push_back(-answers[i].log_likelihoods[gold]);
    bytes.push_back(static_cast<double>(task.items[i].choices[gold].size()));
    scores.requests += static_cast<std::int64_t>(answers[i].log_likelihoods.size() +
                                                 answers[i].without_question.size());
  }
  scores.bits_per_byte = bits_per_byte_of(nats, bytes);
  return scores;
}

std::vector<std::pair<std::string, Share>> macro_average(const std::vector<TaskScores>& scores) {
  std::vector<std::pair<std::string, Share>> means;
  for (const char* name :
       {"acc", "acc_per_char", "acc_per_byte", "acc_per_token", "acc_uncond", "exact_match"}) {
    MeanScore score;
    for (const TaskScores& task : scores)
      for (const auto& [share_name, share] : task.shares())
        if (share_name == name) score.add(share);
    if (score.any()) means.emplace_back(name, score.mean());
  }
  MeanScore bits;
  for (const TaskScores& task : scores)
    if (task.bits_per_byte) bits.add(*task.bits_per_byte);
  if (bits.any()) means.emplace_back("bits_per_byte", bits.mean());
  return means;
}

namespace {

constexpr std::string_view macro_name = "macro average";

void set_share(Json& json, const std::string& name, const Share& share) {
  json.set(name, share.value).set(name + "_stderr", share.error);
}

/// 0 where nothing was computed.
double tokens_per_second(std::int64_t tokens, double seconds) {
  return seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0;
}
double tokens_per_second(const ScoringWork& work) {
  return tokens_per_second(work.computed_tokens, work.model_seconds);
}

/// Behind the first pass; nothing where there was one pass.
std::optional<double> steady_tokens_per_second(const ScoringWork& work) {
  const std::int64_t tokens = work.computed_tokens - work.first_pass_tokens;
  if (tokens < 1) return std::nullopt;
  return tokens_per_second(tokens, work.model_seconds - work.first_pass_seconds);
}

std::string rate_text(double tokens_per_second) {
  return with_separators(static_cast<std::int64_t>(std::llround(tokens_per_second)));
}

Json work_json(const ScoringWork& work) {
  Json json = Json::object();
  json.set("tokens", work.tokens)
      .set("computed_tokens", work.computed_tokens)
      .set("preparing_seconds", work.preparing_seconds)
      .set("model_seconds", work.model_seconds)
      .set("waiting_seconds", work.waiting_seconds)
      .set("computed_tokens_per_second", tokens_per_second(work))
      .set("first_pass_tokens", work.first_pass_tokens)
      .set("first_pass_seconds", work.first_pass_seconds);
  if (const auto steady = steady_tokens_per_second(work))
    json.set("steady_tokens_per_second", *steady);
  return json;
}

std::vector<std::string> names_of(const std::vector<TaskScores>& scores) {
  std::vector<std::string> names;
  for (const TaskScores& task : scores) names.push_back(task.name);
  return names;
}

std::string text_of(const std::string& name, const Share& share) {
  return fmt::format("  {} {:.4f} ± {:.4f}", name, share.value, share.error);
}

}  // namespace

Json scores_json(const std::vector<TaskScores>& scores) {
  Json tasks = Json::array();
  for (const TaskScores& task : scores) {
    Json row = Json::object();
    row.set("task", task.name)
        .set("items", task.items)
        .set("requests", task.requests)
        .set("cut_contexts", task.cut);
    if (task.exact_match) row.set("answers_ended_by_window", task.ended_by_window);
    for (const auto& [name, share] : task.shares()) set_share(row, name, share);
    if (task.bits_per_byte) set_share(row, "bits_per_byte", *task.bits_per_byte);
    if (task.work) row.set("work", work_json(*task.work));
    tasks.add(std::move(row));
  }
  Json macro = Json::object();
  for (const auto& [name, share] : macro_average(scores)) set_share(macro, name, share);
  Json json = Json::object();
  json.set("tasks", std::move(tasks)).set("macro", std::move(macro));
  return json;
}

std::string items_jsonl(const Task& task, const std::vector<TaskAnswer>& answers) {
  std::string text;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const TaskItem& item = task.items[i];
    const TaskAnswer& answer = answers[i];
    Json row = Json::object();
    row.set("task", task.name).set("line", item.line);
    if (task.generates) {
      row.set("generated", answer.generated)
          .set("exact_match", is_exact_match(item, answer.generated))
          .set("ended_by_window", answer.ended_by_window);
    } else {
      const auto list = [](const auto& values) {
        Json array = Json::array();
        for (const auto value : values) array.add(value);
        return array;
      };
      row.set("log_likelihoods", list(answer.log_likelihoods)).set("tokens", list(answer.tokens));
      if (!answer.without_question.empty())
        row.set("log_likelihoods_without_question", list(answer.without_question));
      row.set("choice", choice_of(item, answer, Normalization::none)).set("gold", item.gold);
    }
    row.set("cut", answer.cut);
    text += row.dump() + "\n";
  }
  return text;
}

std::size_t name_width(const std::vector<std::string>& names) {
  std::size_t width = macro_name.size();
  for (const std::string& name : names) width = std::max(width, name.size());
  return width;
}

std::string scores_line(const TaskScores& task, std::size_t name_width) {
  std::string text = fmt::format("{:<{}}  {:>6} items", task.name, name_width, task.items);
  for (const auto& [name, share] : task.shares()) text += text_of(name, share);
  if (task.bits_per_byte) text += text_of("bits_per_byte", *task.bits_per_byte);
  if (task.cut > 0) text += fmt::format("  ({} contexts cut to the window)", task.cut);
  if (task.ended_by_window > 0)
    text += fmt::format("  ({} answers ended by the window)", task.ended_by_window);
  return text + "\n";
}

std::string macro_line(const std::vector<TaskScores>& scores, std::size_t name_width) {
  if (scores.size() < 2) return "";
  std::string text = fmt::format("{:<{}}  {:>6} tasks", macro_name, name_width, scores.size());
  for (const auto& [name, share] : macro_average(scores)) text += text_of(name, share);
  return text + "\n";
}

std::string scores_table(const std::vector<TaskScores>& scores) {
  const std::size_t width = name_width(names_of(scores));
  std::string text;
  for (const TaskScores& task : scores) text += scores_line(task, width);
  return text + macro_line(scores, width);
}

std::string work_table(const std::vector<TaskScores>& scores, double loading_seconds) {
  const std::size_t width = name_width(names_of(scores));
  constexpr const char* row =
      "{:<{}}  {:>11}  {:>11}  {:>8}  {:>8}  {:>9}  {:>10}  {:>8}  {:>11}  {:>9}\n";
  const auto seconds = [](double value) { return fmt::format("{:.2f}", value); };
  std::string text = fmt::format("\nmodel loaded in {} s\n", seconds(loading_seconds));
  text += fmt::format(fmt::runtime(row), "", width, "tokens", "computed", "s", "waits s",
                      "tokens/s", "first pass", "its s", "then/s", "encoded s");
  for (const TaskScores& task : scores) {
    if (!task.work) continue;
    const ScoringWork& work = *task.work;
    const auto steady = steady_tokens_per_second(work);
    text += fmt::format(fmt::runtime(row), task.name, width, with_separators(work.tokens),
                        with_separators(work.computed_tokens), seconds(work.model_seconds),
                        seconds(work.waiting_seconds), rate_text(tokens_per_second(work)),
                        with_separators(work.first_pass_tokens), seconds(work.first_pass_seconds),
                        steady ? rate_text(*steady) : "-", seconds(work.preparing_seconds));
  }
  return text;
}

}  // namespace polymoe
