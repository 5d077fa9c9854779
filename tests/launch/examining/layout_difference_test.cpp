// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/layout_difference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "launch/examining/layout_steps.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

LayoutStep step_of(std::int64_t step, float value) {
  return {.step = step,
          .loss = 2.0,
          .gradients = {{"output.weight", 2, {1.0f, value}}, {"layers.0.up", 1, {value, 3.0f}}},
          .parameters = {{"layers.0.up", 1, {value, 3.0f}}, {"output.weight", 2, {1.0f, 1.0f}}}};
}

TEST(LayoutDifferenceTest, RoundingIsNoDifference) {
  const auto difference = difference_of(step_of(1, 1.0f), step_of(1, 1.000001f), DType::f32);
  EXPECT_FALSE(difference.beyond);
  EXPECT_GT(difference.gradients.relative, 1e-8);
}

TEST(LayoutDifferenceTest, NamesTheFirstTensorInTheOrderOfTheStep) {
  LayoutStep other = step_of(1, 1.0f);
  other.gradients[1].values[0] = 1.5f;
  other.parameters[0].values[0] = 9.0f;
  const auto difference = difference_of(step_of(1, 1.0f), other, DType::f32);
  ASSERT_TRUE(difference.beyond);
  EXPECT_EQ(difference.beyond->tensor, "layers.0.up");
  EXPECT_EQ(difference.beyond_kind, "gradient");
  EXPECT_NEAR(difference.beyond->relative, 0.5 / std::sqrt(1.5 * 1.5 + 9.0), 1e-6);
  const std::string text = difference_text("2x2", "1x1", {difference}, true);
  EXPECT_NE(text.find("! first beyond rounding: gradient of layers.0.up in step 1"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("--train.precision=f32"), std::string::npos) << text;  // step 1 routes alike
}

TEST(LayoutDifferenceTest, TellsThatRoutingInBf16MayBeWhatDiffers) {
  const auto difference = difference_of(step_of(2, 1.0f), step_of(2, 3.0f), DType::bf16);
  ASSERT_TRUE(difference.beyond);
  const auto text = [&](bool routes_in_bf16) {
    return difference_text("2x1", "1x1", {difference}, routes_in_bf16);
  };
  EXPECT_NE(text(true).find("--train.precision=f32"), std::string::npos) << text(true);
  EXPECT_EQ(text(false).find("--train.precision=f32"), std::string::npos) << text(false);
}

TEST(LayoutDifferenceTest, WhatIsNotFiniteDiffers) {
  const auto difference = difference_of(
      step_of(1, 1.0f), step_of(1, std::numeric_limits<float>::quiet_NaN()), DType::f32);
  ASSERT_TRUE(difference.beyond);
  EXPECT_EQ(difference.beyond->tensor, "output.weight");
}

TEST(LayoutDifferenceTest, SaysByHowMuchItGrows) {
  const std::string text =
      difference_text("2x1", "1x1",
                      {difference_of(step_of(1, 1.0f), step_of(1, 1.00001f), DType::f32),
                       difference_of(step_of(2, 1.0f), step_of(2, 1.00004f), DType::f32)},
                      true);
  EXPECT_NE(text.find("grows by 4.0"), std::string::npos) << text;
  EXPECT_NE(text.find("the same within rounding"), std::string::npos) << text;
}

Config tiny_config(int expert) {
  return parse_config("", "none",
                      {"--model.layers=2", "--model.hidden=32", "--model.heads=2",
                       "--model.vocab=61", "--model.context=16", "--moe.experts=4", "--moe.top_k=2",
                       "--moe.expert_ffn=16", "--train.global_batch=4", "--run.device=cpu",
                       "--parallel.expert=" + std::to_string(expert)});
}

std::vector<LayoutStep> steps_of(int ranks, int expert) {
  std::vector<LayoutStep> steps;
  run_layout_on_threads(
      tiny_config(expert), 2, ranks, [](int) { return LayoutRank{}; },
      [&](const LayoutStep& step) { steps.push_back(step); });
  return steps;
}

TEST(LayoutStepsTest, LayoutsTrainAlike) {
  const auto one = steps_of(1, 1);
  ASSERT_EQ(one.size(), 2u);
  EXPECT_EQ(one[0].gradients.size(), one[0].parameters.size());
  EXPECT_EQ(one[0].gradients.front().segment, 3);
  for (const auto& [ranks, expert] : {std::pair{2, 2}, std::pair{2, 1}, std::pair{4, 2}}) {
    const auto others = steps_of(ranks, expert);
    for (std::size_t i = 0; i < one.size(); ++i) {
      const auto difference = difference_of(one[i], others[i], DType::f32);
      EXPECT_FALSE(difference.beyond) << ranks << "x" << expert << " " << difference.beyond->tensor
                                      << " " << difference.beyond->relative;
    }
  }
}

TEST(LayoutStepsTest, AnErrorOfARankIsTold) {
  EXPECT_THROW(run_layout_on_threads(
                   tiny_config(1), 1, 2, [](int) { return LayoutRank{}; },
                   [](const LayoutStep&) { throw InvalidArgument("told"); }),
               InvalidArgument);
}

}  // namespace
}  // namespace polymoe
