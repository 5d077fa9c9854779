// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace polymoe {

/// The two losses of a router, or their factors.
struct RouterLosses {
  double balance = 0.0;
  double z = 0.0;

  RouterLosses& operator+=(const RouterLosses& other) {
    balance += other.balance;
    z += other.z;
    return *this;
  }
};

/// What one MoE layer's router did in a step, over the global batch.
struct RoutingStatistics {
  std::int64_t layer = 0;
  std::vector<std::int64_t> expert_rows;  // routed slots per expert, before dropping
  std::int64_t dropped = 0;               // slots
  std::int64_t extra_rounds = 0;          // of all ranks, where more rows came than moe.row_budget

  double load_max_over_mean() const;
  std::int64_t dead_experts() const;  // experts without a slot
  double entropy() const;             // of the shares of slots per expert, in nats
};

}  // namespace polymoe
