// SPDX-License-Identifier: Apache-2.0
#include "moe/routing_statistics.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace polymoe {
namespace {

double sum_of(const std::vector<std::int64_t>& rows) {
  return static_cast<double>(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
}

}  // namespace

double RoutingStatistics::load_max_over_mean() const {
  const double total = sum_of(expert_rows);
  if (total == 0.0) return 0.0;
  const auto largest =
      static_cast<double>(*std::max_element(expert_rows.begin(), expert_rows.end()));
  return largest * static_cast<double>(expert_rows.size()) / total;
}

std::int64_t RoutingStatistics::dead_experts() const {
  return std::count(expert_rows.begin(), expert_rows.end(), 0);
}

double RoutingStatistics::entropy() const {
  const double total = sum_of(expert_rows);
  double entropy = 0.0;
  for (const std::int64_t rows : expert_rows) {
    if (rows == 0) continue;
    const double share = static_cast<double>(rows) / total;
    entropy -= share * std::log(share);
  }
  return entropy;
}

}  // namespace polymoe
