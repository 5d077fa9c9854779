// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "runtime/error.h"

namespace polymoe {
namespace {

const std::vector<float> logits = {1.0F, 3.0F, -2.0F, 3.0F, 2.5F, 0.0F};

/// Shares of the tokens in many draws.
std::vector<double> shares(const SamplingOptions& options, const std::vector<float>& from) {
  constexpr int draws = 40000;
  Sampler sampler(options);
  std::vector<double> share(from.size());
  for (int i = 0; i < draws; ++i)
    share[static_cast<std::size_t>(sampler.draw(from))] += 1.0 / draws;
  return share;
}

/// softmax(logits / temperature) over the tokens in `allowed`.
std::vector<double> expected(double temperature, const std::set<std::size_t>& allowed) {
  std::vector<double> p(logits.size());
  double sum = 0.0;
  for (const std::size_t i : allowed) sum += p[i] = std::exp(logits[i] / temperature);
  for (double& value : p) value /= sum;
  return p;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(actual[i], wanted[i], 0.01) << "token " << i;
    EXPECT_EQ(actual[i] == 0.0, wanted[i] == 0.0) << "token " << i;
  }
}

TEST(SamplerTest, TemperatureZeroTakesTheMostProbableAndOfEqualsTheFirst) {
  Sampler sampler({.temperature = 0.0});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sampler.draw(logits), 1);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  expect_near(shares({.temperature = 1.0, .seed = 1}, logits), expected(1.0, {0, 1, 2, 3, 4, 5}));
  expect_near(shares({.temperature = 2.0, .seed = 2}, logits), expected(2.0, {0, 1, 2, 3, 4, 5}));
}

TEST(SamplerTest, TopKKeepsTheMostProbable) {
  expect_near(shares({.top_k = 3, .seed = 3}, logits), expected(1.0, {1, 3, 4}));
  expect_near(shares({.top_k = 1, .seed = 3}, logits), expected(1.0, {1}));
  expect_near(shares({.top_k = 100, .seed = 3}, logits), expected(1.0, {0, 1, 2, 3, 4, 5}));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachIt) {
  // Probabilities in order: 0.359, 0.359, 0.218, 0.049, 0.018, 0.002.
  expect_near(shares({.top_p = 0.3, .seed = 4}, logits), expected(1.0, {1}));
  expect_near(shares({.top_p = 0.5, .seed = 4}, logits), expected(1.0, {1, 3}));
  expect_near(shares({.top_p = 0.9, .seed = 4}, logits), expected(1.0, {1, 3, 4}));
  // Of the three that top-k leaves, the first two have 0.767.
  expect_near(shares({.top_k = 3, .top_p = 0.76, .seed = 4}, logits), expected(1.0, {1, 3}));
}

TEST(SamplerTest, TheSeedAloneDecides) {
  const auto text = [](std::uint64_t seed) {
    Sampler sampler({.seed = seed});
    std::vector<std::int64_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.draw(logits));
    return tokens;
  };
  EXPECT_EQ(text(5), text(5));
  EXPECT_NE(text(5), text(6));
}

TEST(SamplerTest, LargeLogitsDoNotOverflow) {
  const std::vector<float> large = {1e30F, -1e30F, 1e30F};
  const auto share = shares({.seed = 1}, large);
  EXPECT_NEAR(share[0], 0.5, 0.01);
  EXPECT_EQ(share[1], 0.0);
}

TEST(SamplerTest, RefusesWhatIsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1.0}), InvalidArgument);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}), InvalidArgument);
  EXPECT_THROW(Sampler({.top_k = -1}), InvalidArgument);
  EXPECT_THROW(Sampler({.top_p = 0.0}), InvalidArgument);
  EXPECT_THROW(Sampler({.top_p = 1.1}), InvalidArgument);
  Sampler sampler({});
  EXPECT_THROW(sampler.draw({}), Error);
  EXPECT_THROW(sampler.draw(std::vector<float>{1.0F, std::numeric_limits<float>::quiet_NaN()}),
               Error);
}

}  // namespace
}  // namespace polymoe
