// SPDX-License-Identifier: Apache-2.0
#include "launch/training/progress.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>
#include "launch/training/step_metrics.h"
#include "moe/routing_statistics.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

// Steps after which an old value weighs 1/e in a mean.
constexpr double memory_steps = 20.0;

}  // namespace

std::string training_line(const ProgressState& state, int columns) {
  std::vector<std::string> parts = {
      fmt::format("step {}/{}", state.step, state.last_step),
      fmt::format("loss {:.4f}", state.loss),
      short_count(state.tokens_per_second) + " tokens/s",
  };
  if (state.seconds_left >= 0.0) parts.push_back(clock_text(state.seconds_left) + " left");
  parts.push_back(fmt::format("norm {:.3g}", state.grad_norm));
  parts.push_back(fmt::format("lr {:.3g}", state.lr));
  parts.push_back(fmt::format("mfu {:.0f} %", 100.0 * state.mfu));
  if (state.load > 0.0) {
    parts.push_back(fmt::format("load {:.2f}", state.load));
    if (state.dead_experts > 0) parts.push_back(fmt::format("{} dead", state.dead_experts));
  }
  std::string line;
  for (const std::string& part : parts) {
    const std::string longer = line.empty() ? part : line + "  " + part;
    if (longer.size() > static_cast<std::size_t>(columns) && !line.empty()) break;
    line = longer;
  }
  return line;
}

TrainingProgress::TrainingProgress(const ProgressOutput& output, std::int64_t first_step,
                                   std::int64_t last_step)
    : line_(output), first_step_(first_step), last_step_(last_step) {}

void TrainingProgress::step_done(const StepMetrics& metrics, double seconds) {
  ++steps_seen_;
  // Plain means at first, then ones that forget.
  const double weight = std::max(1.0 / static_cast<double>(steps_seen_), 1.0 / memory_steps);
  seconds_per_step_ += weight * (seconds - seconds_per_step_);
  // A skipped step must not stay in the mean for ever.
  if (std::isfinite(metrics.loss))
    loss_ += std::max(1.0 / static_cast<double>(++losses_seen_), 1.0 / memory_steps) *
             (metrics.loss - loss_);
  if (metrics.step != first_step_ && metrics.step != last_step_ && !line_.due()) return;
  ProgressState state{
      .step = metrics.step,
      .last_step = last_step_,
      .loss = loss_,
      .grad_norm = metrics.grad_norm,
      .lr = metrics.lr,
      .tokens_per_second = metrics.tokens_per_second,
      .mfu = metrics.mfu,
      .seconds_left = seconds_per_step_ * static_cast<double>(last_step_ - metrics.step)};
  for (const RoutingStatistics& layer : metrics.routing) {
    state.load = std::max(state.load, layer.load_max_over_mean());
    state.dead_experts += layer.dead_experts();
  }
  line_.show(training_line(state, line_.columns()));
}

}  // namespace polymoe
