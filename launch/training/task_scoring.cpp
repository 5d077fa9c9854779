// SPDX-License-Identifier: Apache-2.0
#include "launch/training/task_scoring.h"

#include <fmt/core.h>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/run_tokenizer.h"
#include "launch/evaluation/task_file.h"
#include "launch/evaluation/task_run.h"
#include "launch/evaluation/task_scores.h"
#include "launch/inference/answering_model.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"

namespace polymoe {

TaskScoring::TaskScoring(const Config& config, Communicator& world) : every_(config.eval.every) {
  if (config.eval.tasks.empty()) return;
  on_every_rank(world, [&] {
    std::vector<Task> tasks = read_tasks({config.eval.tasks.begin(), config.eval.tasks.end()});
    std::string name = config.eval.tokenizer;
    if (name.empty()) name = remembered_tokenizer(config.run.dir).value_or("");
    if (name.empty())
      throw InvalidArgument(
          "eval.tokenizer: must be given, no file of data.train has a tokenizer beside it");
    tokenizer_ = load_run_tokenizer(name, config.run.dir, config.model.vocab);
    for (Task& task : tasks)
      tasks_.emplace_back(std::move(task), *tokenizer_, config.model.context);
  });
}

bool TaskScoring::is_due(std::int64_t step, std::int64_t last_step) const {
  return !tasks_.empty() && (step == last_step || (every_ > 0 && step % every_ == 0));
}

std::vector<std::string> TaskScoring::keys() const {
  std::vector<std::string> keys;
  for (const PreparedTask& task : tasks_)
    keys.push_back(
        fmt::format("eval/{}/{}", task.task().name, task.task().generates ? "exact_match" : "acc"));
  return keys;
}

std::optional<TaskScoring::Scores> TaskScoring::score(const AnsweringModel& answering) const {
  std::vector<TaskScores> scores;
  for (const PreparedTask& task : tasks_) {
    const auto answers = task.answer(answering, {});
    if (!answers) return std::nullopt;
    scores.push_back(polymoe::score(task.task(), answers->items));
  }
  Scores result{.values = {}, .table = scores_table(scores)};
  const auto add = [&](const std::string& name, const Share& share) {
    result.values.emplace_back(name, share.value);
    result.values.emplace_back(name + "_stderr", share.error);
  };
  for (const TaskScores& task : scores) {
    for (const auto& [name, share] : task.shares()) add(task.name + "/" + name, share);
    if (task.bits_per_byte) add(task.name + "/bits_per_byte", *task.bits_per_byte);
  }
  if (scores.size() > 1)
    for (const auto& [name, share] : macro_average(scores))
      add(fmt::format("{}/{}", macro_average_name, name), share);
  return result;
}

}  // namespace polymoe
