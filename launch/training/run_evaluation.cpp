// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_evaluation.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/step/arena_size.h"
#include "launch/step/evaluation.h"
#include "launch/step/pass_limits.h"
#include "launch/training/step_metrics.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"

namespace polymoe {

RunEvaluation::RunEvaluation(const Run& run, std::function<bool()> leave)
    : run_(run),
      leave_(std::move(leave)),
      scoring_(run.config, run.mesh.world()),
      scoring_limits_(run.config.eval.tasks.empty()
                          ? PassLimits{}
                          : run_pass_limits(run.config, run.mesh, run.context.stream.device(),
                                            run.context.arena.capacity())) {}

Evaluations RunEvaluation::due(std::int64_t step) const {
  const TrainConfig& train = run_.config.train;
  return {.validation = !run_.data.valid().empty() && train.valid_every > 0 &&
                        (step % train.valid_every == 0 || step == train.steps),
          .scoring = scoring_.is_due(step, train.steps)};
}

Evaluations RunEvaluation::missing(std::int64_t step) const {
  const Evaluations wanted = due(step);
  Communicator& world = run_.mesh.world();
  // What the first rank finds in its file, which the others have not.
  const auto lacks = [&](const std::vector<std::string>& keys) {
    return least_of_ranks(world.rank() == 0 && !run_.outputs.row_has(step, keys) ? 0 : 1, world) ==
           0;
  };
  return {.validation = wanted.validation && lacks({"valid_loss"}),
          .scoring = wanted.scoring && lacks(scoring_.keys())};
}

bool RunEvaluation::make(const Evaluations& wanted, bool stopped, std::int64_t step,
                         std::int64_t tokens) {
  const auto one = [&](bool is_wanted, const char* name, const char* work, auto evaluate) {
    if (!is_wanted) return;
    if (!stopped && run_.work_begins) run_.work_begins(work);
    StepMetrics results{.step = step, .tokens = tokens};
    stopped = stopped || !evaluate(results);
    if (results.valid_loss || !results.scores.empty()) run_.outputs.complete(results);
    if (stopped)
      run_.log.info(fmt::format("the {} of step {} is left: the next start makes it", name, step));
  };
  one(wanted.validation, "validation", "validating",
      [&](auto& results) { return validate(results); });
  one(wanted.scoring, "scoring", "scoring", [&](auto& results) { return score_tasks(results); });
  return !stopped || !wanted.any();
}

/// Whether it was not left.
bool RunEvaluation::validate(StepMetrics& metrics) {
  const TrainConfig& train = run_.config.train;
  const std::vector<std::string> names = run_.data.valid_names();
  double loss = 0.0;
  std::vector<std::pair<std::string, double>> losses;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double share = run_.data.valid_shares()[i];
    const auto windows = static_cast<double>(train.valid_batches * train.global_batch) * share;
    const Evaluation result =
        evaluate(run_.model.model(), run_.data.valid()[i],
                 {.context = run_.config.model.context,
                  .per_batch = run_.model.shares().largest(),
                  .max_windows = static_cast<std::int64_t>(std::ceil(windows)),
                  .documents = run_.data.valid_documents(i),
                  .leave = leave_},
                 run_.mesh, run_.context);
    if (!result.complete) return false;
    loss += share * result.loss();
    losses.emplace_back(names[i], result.loss());
  }
  metrics.valid_loss = valid_loss_ = loss;
  metrics.valid_losses = std::move(losses);
  run_.outputs.validated(metrics.step, loss);
  return true;
}

/// Whether it was not left.
bool RunEvaluation::score_tasks(StepMetrics& metrics) {
  not_finite_.clear();
  try {
    const auto scores = scoring_.score({.model = run_.model.model(),
                                        .mesh = run_.mesh,
                                        .context = run_.context,
                                        .dtype = run_.model.parameters().dtype(),
                                        .limits = scoring_limits_,
                                        .leave = leave_});
    if (!scores) return false;
    metrics.scores = scores->values;
    run_.outputs.scored(metrics.step, scores->table);
  } catch (const NotFiniteError& error) {
    not_finite_ = error.what();
    if (run_.mesh.world().rank() == 0)
      run_.log.warning(
          fmt::format("the scoring of step {} has no result: {}", metrics.step, not_finite_));
  }
  return true;
}

}  // namespace polymoe
