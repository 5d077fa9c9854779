// SPDX-License-Identifier: Apache-2.0
#include "launch/training/waiting.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/activation/activation.h"
#include "moe/model_config.h"
#include "moe/model_size.h"
#include "moe/routing_statistics.h"

namespace polymoe {

WaitingReport explain_waiting(const std::vector<RankTimes>& ranks, double expert_share,
                              double fullest_over_mean) {
  WaitingReport report;
  const auto count = static_cast<double>(ranks.size());
  double rows = 0.0, waiting = 0.0;
  report.exposed_exchange = ranks.front().waiting;
  for (const RankTimes& rank : ranks) {
    rows += rank.rows / count;
    report.computing += rank.computing / count;
    waiting += rank.waiting / count;
    report.exposed_exchange = std::min(report.exposed_exchange, rank.waiting);
  }
  report.waiting = waiting - report.exposed_exchange;

  // What a rank's time would be with the mean rank's rows.
  for (const RankTimes& rank : ranks) {
    const double load = rows > 0.0 ? 1.0 - expert_share + expert_share * rank.rows / rows : 1.0;
    report.slowness.push_back(load > 0.0 ? rank.computing / load : 0.0);
  }
  std::vector<double> sorted = report.slowness;
  std::ranges::sort(sorted);
  const double median = sorted[(sorted.size() - 1) / 2];
  if (median > 0.0)
    for (double& slowness : report.slowness) slowness /= median;
  report.routing_tax =
      std::clamp(expert_share * (fullest_over_mean - 1.0) * median, 0.0, report.waiting);
  report.hardware_tax = report.waiting - report.routing_tax;
  return report;
}

double expert_share(const ModelConfig& config) {
  if (config.moe.experts == 0) return 0.0;
  double weights = 0.0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    if (config.is_moe_layer(layer))
      weights += static_cast<double>(config.moe.top_k * config.expert_width() * config.hidden *
                                     (pre_activation_factor(config.activation.kind) + 1));
  return 6.0 * weights / training_flops_per_token(config);
}

void RankLoad::add(const std::vector<RoutingStatistics>& layers) {
  for (const RoutingStatistics& layer : layers) {
    const auto per_rank =
        static_cast<std::ptrdiff_t>(layer.expert_rows.size()) / static_cast<std::ptrdiff_t>(ranks_);
    std::int64_t fullest = 0, all = 0;
    for (auto first = layer.expert_rows.begin(); first != layer.expert_rows.end();
         first += per_rank) {
      const std::int64_t rows = std::accumulate(first, first + per_rank, std::int64_t{0});
      fullest = std::max(fullest, rows);
      all += rows;
    }
    fullest_ += static_cast<double>(fullest);
    mean_ += static_cast<double>(all) / ranks_;
  }
}

}  // namespace polymoe
