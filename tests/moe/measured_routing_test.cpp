// SPDX-License-Identifier: Apache-2.0
#include "moe/measured_routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::int64_t experts = 16, top_k = 4, length = 320;

std::vector<std::int64_t> counts_of(const std::vector<std::int32_t>& choices) {
  std::vector<std::int64_t> counts(experts, 0);
  for (const std::int32_t e : choices) ++counts.at(static_cast<std::size_t>(e));
  return counts;
}

/// Ranks that a token's experts live on, of `ranks`, summed over tokens.
std::int64_t ranks_reached(const std::vector<std::int32_t>& choices, std::int64_t ranks) {
  std::int64_t reached = 0;
  for (std::size_t t = 0; t < choices.size(); t += top_k) {
    std::set<std::int64_t> of_token;
    for (std::size_t j = 0; j < top_k; ++j) of_token.insert(choices[t + j] / (experts / ranks));
    reached += static_cast<std::int64_t>(of_token.size());
  }
  return reached;
}

class MeasuredChoices : public ::testing::TestWithParam<Routing> {};

INSTANTIATE_TEST_SUITE_P(All, MeasuredChoices,
                         ::testing::Values(Routing::balanced, Routing::skewed));

TEST_P(MeasuredChoices, AreDifferentWithinATokenAndOfEachLayerTheirOwn) {
  const auto choices = measured_choices(GetParam(), "layer 1", length, experts, top_k);
  ASSERT_EQ(choices.size(), static_cast<std::size_t>(length * top_k));
  for (std::size_t t = 0; t < choices.size(); t += top_k) {
    EXPECT_EQ(std::set(choices.begin() + static_cast<std::ptrdiff_t>(t),
                       choices.begin() + static_cast<std::ptrdiff_t>(t + top_k))
                  .size(),
              static_cast<std::size_t>(top_k));
  }
  EXPECT_EQ(choices, measured_choices(GetParam(), "layer 1", length, experts, top_k));
  EXPECT_NE(choices, measured_choices(GetParam(), "layer 2", length, experts, top_k));
  const auto shorter = measured_choices(GetParam(), "layer 1", 40, experts, top_k);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), choices.begin()));
}

TEST(MeasuredRouting, BalancedGivesEveryExpertAsManyAndSpreadsATokenAtRandom) {
  const auto choices = measured_choices(Routing::balanced, "layer", length, experts, top_k);
  EXPECT_EQ(counts_of(choices), std::vector<std::int64_t>(experts, length * top_k / experts));
  // 4 of 16 experts at random miss one of 4 ranks with (12 11 10 9) / (16 15 14 13).
  const double missed = 12.0 * 11 * 10 * 9 / (16.0 * 15 * 14 * 13);
  EXPECT_NEAR(static_cast<double>(ranks_reached(choices, 4)) / length, 4 * (1 - missed), 0.15);
}

TEST(MeasuredRouting, SkewedFallsWithTheExpert) {
  const auto counts = counts_of(measured_choices(Routing::skewed, "layer", length, experts, top_k));
  std::int64_t first_half = 0;
  for (std::size_t e = 0; e < experts / 2; ++e) first_half += counts[e];
  EXPECT_GT(first_half, length * top_k * 55 / 100);
  EXPECT_GT(counts.front(), 2 * counts.back());
  EXPECT_GT(counts.back(), 0);
}

TEST(MeasuredRouting, TheRoutersChoicesAreItsOwn) {
  EXPECT_THROW(measured_choices(Routing::router, "layer", length, experts, top_k), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
