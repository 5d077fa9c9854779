// SPDX-License-Identifier: Apache-2.0
#include "launch/config/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

OptimizerConfig with(Schedule schedule, const std::string& warmup) {
  OptimizerConfig config;
  config.schedule = schedule;
  config.lr = 3e-4;
  config.min_lr = 3e-5;
  config.warmup = warmup;
  return config;
}

TEST(DurationTest, ReadsStepsTokensAndShares) {
  const auto steps = [](const char* text, std::int64_t run, std::int64_t tokens_per_step) {
    return Duration::parse(text)->steps(run, tokens_per_step);
  };
  EXPECT_EQ(steps("100", 1000, 7), 100);
  EXPECT_EQ(steps("1e2 steps", 1000, 7), 100);
  EXPECT_EQ(steps("0", 1000, 7), 0);
  EXPECT_EQ(steps("620M tokens", 1000000, 262144), 2366);  // 620e6 / 262144 = 2365.11
  EXPECT_EQ(steps("620Mtokens", 1000000, 262144), 2366);
  EXPECT_EQ(steps("10.49B tokens", 1000000, 4194304), 2502);  // 2501.01
  EXPECT_EQ(steps("4096 tokens", 100, 1024), 4);
  EXPECT_EQ(steps("20%", 300, 1), 60);
  EXPECT_EQ(steps("7%", 100, 1), 7);
  EXPECT_EQ(steps("0.5%", 300, 1), 2);
  for (const char* text : {"", "x", "-1", "1.5", "101%", "-1%", "nan%", "5 furlongs", "tokens"})
    EXPECT_FALSE(Duration::parse(text).has_value()) << text;
}

TEST(DurationTest, TextReadsBack) {
  for (const char* text : {"100", "620M tokens", "620Mtokens", "20%", "2.5 %", "1e2steps"}) {
    const std::string normal = Duration::parse(text)->text();
    EXPECT_EQ(Duration::parse(normal)->text(), normal);
    EXPECT_EQ(Duration::parse(normal)->steps(400, 1000), Duration::parse(text)->steps(400, 1000));
  }
  EXPECT_EQ(Duration::parse("620Mtokens")->text(), "620M tokens");
}

TEST(LearningRateTest, WarmsUpLinearlyUnderEverySchedule) {
  for (const Schedule schedule :
       {Schedule::cosine, Schedule::linear, Schedule::constant, Schedule::wsd}) {
    const LearningRate rate(with(schedule, "10"), 100, 1);
    EXPECT_EQ(rate.warmup_steps(), 10);
    for (std::int64_t step = 1; step <= 10; ++step)
      EXPECT_DOUBLE_EQ(rate.at(step), 3e-4 * static_cast<double>(step) / 10.0);
  }
}

TEST(LearningRateTest, FollowsItsFormulaAfterTheWarmUp) {
  const LearningRate cosine(with(Schedule::cosine, "10"), 110, 1);
  const LearningRate linear(with(Schedule::linear, "10"), 110, 1);
  const LearningRate constant(with(Schedule::constant, "10"), 110, 1);
  for (std::int64_t step = 11; step <= 110; ++step) {
    const double t = static_cast<double>(step - 10) / 100.0;
    EXPECT_DOUBLE_EQ(cosine.at(step), 3e-5 + 2.7e-4 * 0.5 * (1.0 + std::cos(std::numbers::pi * t)));
    EXPECT_DOUBLE_EQ(linear.at(step), 3e-5 + 2.7e-4 * (1.0 - t));
    EXPECT_DOUBLE_EQ(constant.at(step), 3e-4);
  }
  EXPECT_DOUBLE_EQ(cosine.at(60), (3e-4 + 3e-5) / 2);  // half way
  EXPECT_DOUBLE_EQ(cosine.at(110), 3e-5);
  EXPECT_DOUBLE_EQ(cosine.at(500), 3e-5);
}

TEST(LearningRateTest, WsdIsStableThenFalls) {
  OptimizerConfig config = with(Schedule::wsd, "10");
  config.decay = "20%";
  const LearningRate rate(config, 100, 1);
  for (std::int64_t step = 10; step <= 80; ++step) EXPECT_DOUBLE_EQ(rate.at(step), 3e-4);
  EXPECT_DOUBLE_EQ(rate.at(81), 3e-5 + 2.7e-4 * 19.0 / 20.0);
  EXPECT_DOUBLE_EQ(rate.at(90), 3e-5 + 2.7e-4 * 0.5);
  EXPECT_DOUBLE_EQ(rate.at(100), 3e-5);
  config.decay = "0";
  EXPECT_DOUBLE_EQ(LearningRate(config, 100, 1).at(100), 3e-4);
}

TEST(LearningRateTest, TokensAndNoWarmUp) {
  const LearningRate rate(with(Schedule::cosine, "8192 tokens"), 100, 1024);
  EXPECT_EQ(rate.warmup_steps(), 8);
  EXPECT_DOUBLE_EQ(rate.at(4), 1.5e-4);
  const LearningRate none(with(Schedule::linear, "0"), 10, 1);
  EXPECT_DOUBLE_EQ(none.at(1), 3e-5 + 2.7e-4 * 0.9);
  const LearningRate all(with(Schedule::cosine, "100%"), 10, 1);
  EXPECT_DOUBLE_EQ(all.at(10), 3e-4);
}

TEST(LearningRateTest, AShortTrialEndsWithinTheWarmUp) {
  const LearningRate rate(with(Schedule::cosine, "20"), 10, 1);
  EXPECT_DOUBLE_EQ(rate.at(1), 3e-4 * 1 / 20);
  EXPECT_DOUBLE_EQ(rate.at(10), 3e-4 * 10 / 20);
}

TEST(LearningRateTest, RefusesADecayThatDoesNotFitTheRun) {
  OptimizerConfig config = with(Schedule::wsd, "5");
  config.decay = "6";
  const std::string decay = test::message_of<InvalidArgument>([&] { LearningRate(config, 10, 1); });
  EXPECT_NE(decay.find("optimizer.decay = 6"), std::string::npos) << decay;
  EXPECT_THROW(LearningRate(with(Schedule::cosine, "soon"), 10, 1), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
