// SPDX-License-Identifier: Apache-2.0
#include "runtime/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

namespace polymoe {
namespace {

// Known answers of philox4x32-10, published with the paper's code (kat_vectors of Random123).
TEST(Philox, GivesTheKnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  constexpr std::uint64_t ones = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(ones, ones, ones), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// RFC draft-eastlake-fnv: FNV-1a, 64 bits.
TEST(HashOf, GivesTheKnownAnswers) {
  EXPECT_EQ(hash_of(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash_of("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash_of("foobar"), 0x85944171f73967e8u);
}

struct Moments {
  double mean = 0.0, variance = 0.0, fourth = 0.0, largest = 0.0;
};

template <class Draw>
Moments moments_of(Draw draw) {
  constexpr std::uint64_t draws = 200'000;
  Moments sum;
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double value = draw(i);
    sum.mean += value / draws;
    sum.variance += value * value / draws;
    sum.fourth += value * value * value * value / draws;
    sum.largest = std::max(sum.largest, std::abs(value));
  }
  sum.variance -= sum.mean * sum.mean;
  return sum;
}

TEST(RandomStream, NormalHasTheMomentsOfTheNormalDistribution) {
  const RandomStream random(1, "normal");
  const Moments moments = moments_of([&](std::uint64_t i) { return random.normal(i); });
  EXPECT_NEAR(moments.mean, 0.0, 0.01);
  EXPECT_NEAR(moments.variance, 1.0, 0.015);
  EXPECT_NEAR(moments.fourth, 3.0, 0.12);
  EXPECT_GT(moments.largest, 4.0);
}

TEST(RandomStream, TruncatedNormalStaysWithinItsBoundAndKeepsItsShape) {
  const RandomStream random(1, "truncated");
  constexpr double bound = 1.5;
  const Moments moments =
      moments_of([&](std::uint64_t i) { return random.truncated_normal(i, bound); });
  // Variance of a normal distribution cut at +-b: 1 - 2 b phi(b) / (2 Phi(b) - 1).
  const double density = std::exp(-bound * bound / 2) / std::sqrt(2 * std::numbers::pi);
  const double inside = std::erf(bound / std::numbers::sqrt2);
  EXPECT_NEAR(moments.mean, 0.0, 0.01);
  EXPECT_NEAR(moments.variance, 1 - 2 * bound * density / inside, 0.01);
  EXPECT_LE(moments.largest, bound);
}

TEST(RandomStream, UniformFillsTheUnitInterval) {
  const RandomStream random(3, "uniform");
  const Moments moments = moments_of([&](std::uint64_t i) { return random.uniform(i); });
  EXPECT_NEAR(moments.mean, 0.5, 0.003);
  EXPECT_NEAR(moments.variance, 1.0 / 12, 0.001);
  EXPECT_LT(moments.largest, 1.0);
  EXPECT_GT(moments.largest, 0.999);
}

TEST(RandomStream, IsAFunctionOfSeedNameAndIndex) {
  const RandomStream one(5, "a"), same(5, "a"), other_name(5, "b"), other_seed(6, "a");
  EXPECT_EQ(one.bits(77), same.bits(77));
  EXPECT_NE(one.bits(77), one.bits(78));
  EXPECT_NE(one.bits(77), other_name.bits(77));
  EXPECT_NE(one.bits(77), other_seed.bits(77));
}

}  // namespace
}  // namespace polymoe
