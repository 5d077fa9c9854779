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

namespace polymoe {

RunEvaluation::RunEvaluation(const Run& run, std::function<bool()> leave)
    : run_(run),
      leave_(std::move(leave)),
      scoring_(run.config, run.mesh.world()),
      scoring_limits_(run.config.eval.tasks.empty()
                          ? PassLimits{}
                          : run_pass_limits(run.config, run.mesh, run.context.stream.device(),
                                            run.context.arena.capacity())) {}

bool RunEvaluation::validation_is_due(std::int64_t step) const {
  const TrainConfig& train = run_.config.train;
  return !run_.data.valid().empty() && train.valid_every > 0 &&
         (step % train.valid_every == 0 || step == train.steps);
}

bool RunEvaluation::scoring_is_due(std::int64_t step) const {
  return scoring_.is_due(step, run_.config.train.steps);
}

void RunEvaluation::validate(StepMetrics& metrics) {
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
    if (!result.complete) {
      run_.log.info(fmt::format("the validation of step {} is left", metrics.step));
      return;
    }
    loss += share * result.loss();
    losses.emplace_back(names[i], result.loss());
  }
  metrics.valid_loss = valid_loss_ = loss;
  metrics.valid_losses = std::move(losses);
  run_.outputs.validated(metrics.step, loss);
}

void RunEvaluation::score_tasks(StepMetrics& metrics) {
  const auto scores = scoring_.score({.model = run_.model.model(),
                                      .mesh = run_.mesh,
                                      .context = run_.context,
                                      .dtype = run_.model.parameters().dtype(),
                                      .limits = scoring_limits_,
                                      .leave = leave_});
  if (!scores) {
    run_.log.info(fmt::format("the scoring of step {} is left", metrics.step));
    return;
  }
  metrics.scores = scores->values;
  run_.outputs.scored(metrics.step, scores->table);
}

}  // namespace polymoe
