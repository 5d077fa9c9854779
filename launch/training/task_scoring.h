// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/tokenizer.h"
#include "launch/evaluation/likelihood.h"
#include "launch/evaluation/task_run.h"
#include "parallel/communication/communicator.h"

namespace polymoe {

/// What a model in training scores on a run's eval.tasks.
class TaskScoring {
 public:
  struct Scores {
    std::vector<std::pair<std::string, double>> values;  // "NAME/acc", "NAME/acc_stderr", ...
    std::string table;                                   // for people, a line a task
  };

  /// Reads the tasks and encodes their items, once for all scorings. They speak by eval.tokenizer
  /// or what the run in run.dir remembers by now. What fails on one rank is thrown on every rank;
  /// collective over `world`. Throws InputFileError, InvalidArgument.
  TaskScoring(const Config& config, Communicator& world);

  /// Whether they are due after `step` of `last_step`.
  bool is_due(std::int64_t step, std::int64_t last_step) const;
  /// A key of metrics.jsonl for each task, which the row of a step with scores has.
  std::vector<std::string> keys() const;
  /// Every rank gets the same; nothing where answering.leave said so. Collective over the mesh.
  /// Throws NotFiniteError, on every rank, where the model has no finite answer.
  std::optional<Scores> score(const AnsweringModel& answering) const;

 private:
  std::int64_t every_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<PreparedTask> tasks_;
};

}  // namespace polymoe
