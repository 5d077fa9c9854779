// SPDX-License-Identifier: Apache-2.0
// Why ranks wait for one another: the arithmetic behind the report on ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/model_config.h"
#include "moe/routing_statistics.h"

namespace polymoe {

/// What one rank's time went to, over some steps.
struct RankTimes {
  double computing = 0.0;  // seconds at work of its own, copies of rows included
  double waiting = 0.0;    // seconds in the exchange of rows and the reduction of gradients
  double rows = 0.0;       // that its experts worked off
};

/// The mean rank's seconds, and what each rank makes of its rows.
struct WaitingReport {
  double computing = 0.0;
  double exposed_exchange = 0.0;  // what even the rank waits that waits least: nobody's fault
  double waiting = 0.0;           // beyond that: for slower ranks
  double routing_tax = 0.0;       // of it: the fullest rank has more rows than the mean one
  double hardware_tax = 0.0;      // the rest: ranks that take longer for the same rows
  std::vector<double> slowness;   // per rank: its time over the median rank's for its rows
};

/// `expert_share` is the experts' share of a token's operations; `fullest_over_mean` how many rows
/// the fullest rank has over the mean one, of one layer at a time. The routing tax is an estimate:
/// expert_share * (fullest_over_mean - 1) of the median rank's time, at most all waiting.
WaitingReport explain_waiting(const std::vector<RankTimes>& ranks, double expert_share,
                              double fullest_over_mean);

/// The routed experts' share of the operations of a training step.
double expert_share(const ModelConfig& config);

/// Rows of the fullest and of the mean rank, summed over layers and steps: how uneven routing is
/// between ranks, where each layer waits for its fullest rank.
class RankLoad {
 public:
  explicit RankLoad(int expert_parallel) : ranks_(expert_parallel) {}

  /// A step's rows per expert, of each layer.
  void add(const std::vector<RoutingStatistics>& layers);
  double fullest_over_mean() const { return mean_ > 0.0 ? fullest_ / mean_ : 1.0; }

 private:
  int ranks_;
  double fullest_ = 0.0, mean_ = 0.0;
};

}  // namespace polymoe
