// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "launch/data/tokenizer.h"
#include "launch/evaluation/likelihood.h"
#include "launch/evaluation/task_file.h"
#include "launch/evaluation/task_scores.h"
#include "runtime/progress.h"

namespace polymoe {

/// What a model said to a task's items, and what that took.
struct TaskAnswers {
  std::vector<TaskAnswer> items;
  ScoringWork work;
};

/// A task's items as tokens: prepared once, by all threads, answered as often as is wanted.
///
/// Context and continuation are encoded together and split where the context alone ends; blanks at
/// the end of a context go to the continuation. An empty context is the end of a document. A
/// context that is longer than the window loses its front; a continuation that is longer is
/// predicted in parts of half a window.
///
/// An answer is generated greedily until one of its ends, the end of a document, max_tokens or the
/// end of the window, which holds the context and all tokens of the answer but the last. A context
/// that fits the window is kept whole, whatever it leaves the answer. One that does not loses as
/// much of its front as max_tokens need, but no more than lets it fill half of the window.
class PreparedTask {
 public:
  /// For a model whose context is `window` tokens. `tokenizer` must outlive this.
  /// Throws InputFileError with file and line where a continuation has no tokens of its own.
  PreparedTask(Task task, const Tokenizer& tokenizer, std::int64_t window);

  const Task& task() const { return task_; }

  /// The model's answers, the same on every rank; with progress on `output`. Nothing where
  /// `answering.leave` said so. Collective over the mesh.
  /// Throws NotFiniteError, on every rank, that names the first item with a log-likelihood that is
  /// not finite, or the task whose next token has no finite logit.
  std::optional<TaskAnswers> answer(const AnsweringModel& answering,
                                    const ProgressOutput& output) const;

 private:
  /// Whose likelihood a request is part of.
  struct Place {
    std::size_t item = 0, choice = 0;
    bool without_question = false;
  };

  /// What becomes of an item, whatever the others are.
  struct EncodedItem;
  void encode_context(EncodedItem& to) const;
  void encode_choices(EncodedItem& to) const;
  void add_request(EncodedItem& to, LikelihoodRequest request, const Place& place) const;

  void check_finite(const TaskAnswer& answer, const TaskItem& item) const;

  std::optional<TaskAnswers> chosen(const AnsweringModel& answering,
                                    const ProgressOutput& output) const;
  std::optional<TaskAnswers> generated(const AnsweringModel& answering,
                                       const ProgressOutput& output) const;

  Task task_;
  const Tokenizer& tokenizer_;
  std::int64_t window_;
  std::vector<TaskAnswer> blank_;                    // without what a model says
  std::vector<std::vector<std::int32_t>> contexts_;  // of answers to generate
  std::vector<LikelihoodRequest> requests_;
  std::vector<Place> places_;  // of the requests
  double preparing_seconds_ = 0.0;
};

}  // namespace polymoe
