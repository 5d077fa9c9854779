// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/evaluation/task_file.h"
#include "runtime/files/json.h"

namespace polymoe {

/// What a model said to an item.
struct TaskAnswer {
  // A question with choices has one for each.
  std::vector<double> log_likelihoods = {};
  std::vector<double> without_question = {};  // the same without the question; empty: not asked
  std::vector<std::int64_t> tokens = {};
  std::string generated = {};    // of a question without choices
  bool cut = false;              // its context was longer than the window
  bool ended_by_window = false;  // what was generated might have gone on
};

/// How the likelihoods of choices are made comparable: not; divided by characters, bytes or tokens
/// of the continuation; less that of the continuation without the question.
enum class Normalization : std::uint8_t { none, characters, bytes, tokens, without_question };

/// The most likely choice; of equals the first.
std::size_t choice_of(const TaskItem& item, const TaskAnswer& answer, Normalization normalization);
/// Whether a generated text, without white space around it, is one of the answers.
bool is_exact_match(const TaskItem& item, const std::string& generated);

/// A score with its standard error: of a share of n items the binomial one, sqrt(p (1 - p) / n).
struct Share {
  double value = 0.0;
  double error = 0.0;
};

/// What the answers to a task took.
struct ScoringWork {
  double preparing_seconds = 0.0;      // texts to tokens
  double model_seconds = 0.0;          // tokens to answers, on all ranks together
  double first_pass_seconds = 0.0;     // of them: until the first pass of the model was done
  double waiting_seconds = 0.0;        // of model_seconds: this rank's host waited for its GPU
  std::int64_t tokens = 0;             // that the model was given, as far as its window reaches
  std::int64_t computed_tokens = 0;    // of them: what requests have in common is computed once
  std::int64_t first_pass_tokens = 0;  // computed in the first pass
};

struct TaskScores {
  std::string name = {};
  std::int64_t items = 0;
  std::int64_t requests = 0;         // continuations scored, or answers generated
  std::int64_t cut = 0;              // items whose context was cut
  std::int64_t ended_by_window = 0;  // generated answers that the window's end cut off
  /// For questions with choices; the last where the file has a form without the question of all.
  std::optional<Share> accuracy = {}, per_character = {}, per_byte = {}, per_token = {},
                       less_unconditional = {};
  /// The right continuations have a ratio of two sums over the items, whose error is that of its
  /// linearisation (Cochran, Sampling Techniques, 6.3). None of a single item.
  std::optional<Share> bits_per_byte = {};
  std::optional<Share> exact_match = {};
  std::optional<ScoringWork> work = {};

  /// The scores by name: "acc", "acc_per_char", "acc_per_byte", "acc_per_token", "acc_uncond",
  /// "exact_match".
  std::vector<std::pair<std::string, Share>> shares() const;
};

TaskScores score(const Task& task, const std::vector<TaskAnswer>& answers);

/// The mean of each score over the tasks that have it: name and value. Tasks are independent, so
/// its error is sqrt(sum of their squared errors) / their number: that of these tasks, not of
/// others.
std::vector<std::pair<std::string, Share>> macro_average(const std::vector<TaskScores>& scores);

/// {"tasks": [...], "macro": {...}}; a task's "work" where it is known.
Json scores_json(const std::vector<TaskScores>& scores);
/// A line of JSON per item: task, line in its file, what the model said and chose, what is right.
std::string items_jsonl(const Task& task, const std::vector<TaskAnswer>& answers);
/// A table for people, a line a task. Its first column takes all names.
std::size_t name_width(const std::vector<std::string>& names);
std::string scores_line(const TaskScores& task, std::size_t name_width);
/// The line of their mean; empty for a single task.
std::string macro_line(const std::vector<TaskScores>& scores, std::size_t name_width);
std::string scores_table(const std::vector<TaskScores>& scores);
/// What they took, a line a task, and before them the seconds in which the model was loaded.
std::string work_table(const std::vector<TaskScores>& scores, double loading_seconds);

}  // namespace polymoe
