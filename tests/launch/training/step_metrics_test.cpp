// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace polymoe {
namespace {

StepMetrics example() {
  StepMetrics metrics{.step = 3,
                      .tokens = 384,
                      .loss = 2.5,
                      .aux_loss = 0.01,
                      .z_loss = 0.002,
                      .lr = 0.25,
                      .grad_norm = 1.25,
                      .tokens_per_second = 1000.0,
                      .mfu = 0.5};
  metrics.seconds[static_cast<std::size_t>(Phase::exchange)] = 0.25;
  // Layer 0 is dense.
  metrics.routing = {{.layer = 1, .expert_rows = {2, 0, 6, 0}, .dropped = 1, .extra_rounds = 3},
                     {.layer = 2, .expert_rows = {2, 2, 2, 2}, .dropped = 0, .extra_rounds = 0}};
  return metrics;
}

TEST(StepMetricsTest, RowHoldsEveryKey) {
  StepMetrics metrics = example();
  EXPECT_EQ(
      metrics_row(metrics).dump(),
      R"({"step":3,"tokens":384,"loss":2.5,"aux_loss":0.01,"z_loss":0.002,"lr":0.25,)"
      R"("grad_norm":1.25,"skipped_steps":0,"tokens_per_second":1000.0,"mfu":0.5,"step_seconds":{"other":0.0,)"
      R"("data":0.0,"forward":0.0,"backward":0.0,"exchange":0.25,"exchange_wait":0.0,"gradient_reduction":0.0,)"
      R"("optimizer":0.0},"checkpoint_seconds":0.0,"load_max_over_mean":[3.0,1.0],"dead_experts":[2,0],)"
      R"("routing_entropy":[0.5623351446188083,1.3862943611198906],"dropped":[1,0],"extra_rounds":[3,0]})");
  metrics.routing.clear();
  metrics.valid_loss = 0.5;
  metrics.valid_losses = {{"code", 0.25}};
  metrics.scores = {{"arc/acc", 0.75}};
  const Json row = metrics_row(metrics);
  EXPECT_EQ(row.find("dropped"), nullptr);
  EXPECT_EQ(row.at("valid_loss").as_number(), 0.5);
  EXPECT_EQ(row.at("valid_loss/code").as_number(), 0.25);
  EXPECT_EQ(row.at("eval/arc/acc").as_number(), 0.75);
  EXPECT_EQ(row.at("valid_perplexity").as_number(), std::exp(0.5));
}

TEST(StepMetricsTest, RowOfExpertsHoldsTheirTokens) {
  EXPECT_EQ(experts_row(example()).dump(),
            R"({"step":3,"tokens":384,"layers":[1,2],"expert_tokens":[[2,0,6,0],[2,2,2,2]]})");
}

TEST(StepMetricsTest, TensorBoardGetsTheSameNumbers) {
  StepMetrics metrics = example();
  metrics.valid_loss = 0.5;
  metrics.valid_losses = {{"code", 0.25}};
  metrics.scores = {{"arc/acc", 0.75}};
  std::map<std::string, float> scalars;
  for (const auto& scalar : metrics_scalars(metrics)) scalars[scalar.tag] = scalar.value;
  EXPECT_EQ(scalars.size(), 10U + 8U + 2U * 5U + 4U);
  EXPECT_EQ(scalars.at("valid/loss/code"), 0.25F);
  EXPECT_EQ(scalars.at("eval/arc/acc"), 0.75F);
  EXPECT_EQ(scalars.at("train/loss"), 2.5F);
  EXPECT_EQ(scalars.at("step_seconds/exchange"), 0.25F);
  EXPECT_EQ(scalars.at("layers.1/load_max_over_mean"), 3.0F);
  EXPECT_EQ(scalars.at("layers.2/dead_experts"), 0.0F);
  EXPECT_EQ(scalars.at("valid/perplexity"), std::exp(0.5F));
}

}  // namespace
}  // namespace polymoe
