// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_guard.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/error.h"

namespace polymoe {
namespace {

using Kind = StepVerdict::Kind;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

TrainConfig settings(SpikeAction action) {
  TrainConfig train;
  train.spike = action;
  train.spike_window = 4;
  train.spike_z = 3.0;
  return train;
}

/// A guard that has seen norms of mean 3 and standard deviation 1.
StepGuard experienced(SpikeAction action) {
  StepGuard guard(settings(action));
  for (const double norm : {2.0, 4.0, 2.0, 4.0}) {
    const StepVerdict verdict = guard.judge(1.0, norm);
    EXPECT_EQ(verdict.kind, Kind::apply);
    EXPECT_FALSE(verdict.z_score);
  }
  return guard;
}

TEST(StepGuardTest, WhatIsNotFiniteIsSkippedAndCounted) {
  StepGuard guard(settings(SpikeAction::off));
  EXPECT_EQ(guard.judge(1.0, 1e30).kind, Kind::apply);
  EXPECT_EQ(guard.judge(nan, 1.0).kind, Kind::not_finite);
  EXPECT_EQ(guard.judge(1.0, infinity).kind, Kind::not_finite);
  EXPECT_EQ(guard.not_finite_in_a_row(), 2);
  EXPECT_FALSE(guard.sound());
  EXPECT_EQ(guard.judge(1.0, 1.0).kind, Kind::apply);
  EXPECT_EQ(guard.not_finite_in_a_row(), 0);
  EXPECT_EQ(guard.skipped(), 2);
  EXPECT_TRUE(guard.sound());
}

TEST(StepGuardTest, ANormFarAboveTheLastOnesIsASpike) {
  StepGuard guard = experienced(SpikeAction::skip);
  StepVerdict verdict = guard.judge(1.0, 5.5);
  EXPECT_EQ(verdict.kind, Kind::apply);
  EXPECT_DOUBLE_EQ(*verdict.z_score, 2.5);
  guard = experienced(SpikeAction::skip);
  verdict = guard.judge(1.0, 9.0);
  EXPECT_EQ(verdict.kind, Kind::spike);
  EXPECT_DOUBLE_EQ(*verdict.z_score, 6.0);
  EXPECT_EQ(guard.skipped(), 1);
  // It has entered the window as 6: mean 4, standard deviation sqrt(2).
  EXPECT_NEAR(*guard.judge(1.0, 4.0).z_score, 0.0, 1e-12);
  guard = experienced(SpikeAction::clip);
  verdict = guard.judge(1.0, 9.0);
  EXPECT_EQ(verdict.kind, Kind::clip);
  EXPECT_DOUBLE_EQ(verdict.clip_to, 3.0);
  EXPECT_FALSE(verdict.skipped());
  EXPECT_EQ(guard.skipped(), 0);
}

TEST(StepGuardTest, ALevelThatStaysHighBecomesNormal) {
  StepGuard guard = experienced(SpikeAction::skip);
  int skipped = 0;
  while (guard.judge(1.0, 50.0).kind == Kind::spike) ASSERT_LT(++skipped, 20);
  EXPECT_GT(skipped, 1);
}

TEST(StepGuardTest, ALossThatRisesIsNotSound) {
  StepGuard guard(settings(SpikeAction::off));
  for (int step = 0; step < 100; ++step) guard.judge(5.0 - 0.01 * step, 1.0);
  EXPECT_TRUE(guard.sound());
  guard.judge(5.0, 1.0);
  EXPECT_TRUE(guard.sound());
  for (int step = 0; step < 10; ++step) guard.judge(5.0, 1.0);
  EXPECT_FALSE(guard.sound());
  for (int step = 0; step < 100; ++step) guard.judge(4.0, 1.0);
  EXPECT_TRUE(guard.sound());
}

TEST(StepGuardTest, AResumedRunJudgesAlike) {
  StepGuard guard = experienced(SpikeAction::skip);
  guard.judge(1.0 / 3.0, 10.0 / 3.0);
  guard.judge(nan, 1.0);
  StepGuard resumed(settings(SpikeAction::skip));
  resumed.restore(parse_json(guard.state().dump(), "state"));
  EXPECT_EQ(resumed.state().dump(), guard.state().dump());
  EXPECT_EQ(*resumed.judge(1.0, 7.7).z_score, *guard.judge(1.0, 7.7).z_score);
  resumed.restore(Json());
  EXPECT_EQ(resumed.skipped(), guard.skipped());
  EXPECT_THROW(resumed.restore(Json::object()), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
