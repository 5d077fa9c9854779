// SPDX-License-Identifier: Apache-2.0
#include "moe/routing_statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace polymoe {
namespace {

TEST(RoutingStatistics, OfEvenLoadAreTheIdeal) {
  const RoutingStatistics even{.layer = 0, .expert_rows = {7, 7, 7, 7}, .dropped = 0};
  EXPECT_EQ(even.load_max_over_mean(), 1.0);
  EXPECT_EQ(even.dead_experts(), 0);
  EXPECT_NEAR(even.entropy(), std::log(4.0), 1e-15);
}

TEST(RoutingStatistics, ShowAnImbalance) {
  const RoutingStatistics skewed{.layer = 0, .expert_rows = {0, 6, 2, 0}, .dropped = 0};
  EXPECT_EQ(skewed.load_max_over_mean(), 3.0);
  EXPECT_EQ(skewed.dead_experts(), 2);
  EXPECT_NEAR(skewed.entropy(), -(0.75 * std::log(0.75) + 0.25 * std::log(0.25)), 1e-15);
}

TEST(RoutingStatistics, OfNoSlotsAreFinite) {
  const RoutingStatistics none{.layer = 0, .expert_rows = {0, 0}, .dropped = 0};
  EXPECT_EQ(none.load_max_over_mean(), 0.0);
  EXPECT_EQ(none.dead_experts(), 2);
  EXPECT_EQ(none.entropy(), 0.0);
}

}  // namespace
}  // namespace polymoe
