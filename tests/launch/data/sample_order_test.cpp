// SPDX-License-Identifier: Apache-2.0
#include "launch/data/sample_order.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

namespace polymoe {
namespace {

TEST(Permutation, VisitsEveryElementOnce) {
  for (const std::int64_t size : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    const Permutation order(size, 42, 0);
    std::vector<bool> seen(static_cast<std::size_t>(size), false);
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t to = order(i);
      ASSERT_GE(to, 0);
      ASSERT_LT(to, size);
      ASSERT_FALSE(seen[static_cast<std::size_t>(to)]) << "size " << size << ", element " << i;
      seen[static_cast<std::size_t>(to)] = true;
    }
  }
}

TEST(Permutation, EpochsAndKeysOrderAnew) {
  const std::int64_t size = 1000;
  const Permutation first(size, 1, 0), again(size, 1, 0), epoch(size, 1, 1), key(size, 2, 0);
  int same_as_identity = 0, same_epoch = 0, same_key = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    EXPECT_EQ(first(i), again(i));
    same_as_identity += first(i) == i;
    same_epoch += first(i) == epoch(i);
    same_key += first(i) == key(i);
  }
  // Each is Poisson with mean 1 for random permutations.
  EXPECT_LT(same_as_identity, 10);
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(same_key, 10);
}

TEST(Interleaving, FollowsTheWeightsAndCountsWithoutGaps) {
  const std::vector<double> weights = {3.0, 0.5, 1.0, 5.5};
  const Interleaving interleaving(weights, 7);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> counts(weights.size(), 0);
  for (std::int64_t i = 0; i < 20000; ++i) {
    const auto [source, ordinal] = interleaving(i);
    ASSERT_LT(source, weights.size());
    ASSERT_EQ(ordinal, counts[source]) << "at " << i;
    ++counts[source];
    for (std::size_t s = 0; s < weights.size(); ++s)
      ASSERT_NEAR(static_cast<double>(counts[s]), static_cast<double>(i + 1) * weights[s] / total,
                  4.0);
  }
}

TEST(Interleaving, StaysExactFarOut) {
  const Interleaving interleaving({1.0, 2.0}, 3);
  const std::int64_t far = std::int64_t{1} << 45;
  std::map<std::size_t, std::int64_t> next;
  for (std::int64_t i = far; i < far + 100; ++i) {
    const auto [source, ordinal] = interleaving(i);
    if (next.contains(source)) {
      EXPECT_EQ(ordinal, next[source]);
    }
    next[source] = ordinal + 1;
  }
  ASSERT_EQ(next.size(), 2U);
  EXPECT_EQ(next[0] + next[1], far + 100);
  EXPECT_NEAR(static_cast<double>(next[0]) / static_cast<double>(far), 1.0 / 3.0, 1e-9);
}

}  // namespace
}  // namespace polymoe
