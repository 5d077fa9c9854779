// SPDX-License-Identifier: Apache-2.0
#include "moe/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace polymoe {
namespace {

TEST(ModelConfig, AutomaticWidthsKeepTheParameterCount) {
  ModelConfig config;
  config.hidden = 2048;
  config.heads = 16;
  config.activation.kind = ActivationKind::swiglu;
  EXPECT_EQ(config.dense_width(), 5504);
  EXPECT_EQ(config.expert_width(), 1024);
  config.activation.kind = ActivationKind::polynorm;
  EXPECT_EQ(config.dense_width(), 8256);
  EXPECT_EQ(config.expert_width(), 1536);
  config.activation.kind = ActivationKind::relu;
  EXPECT_EQ(config.dense_width(), 8256);
  EXPECT_EQ(config.expert_width(), 1536);
}

TEST(ModelConfig, GivenWidthsStay) {
  ModelConfig config;
  config.ffn = 100;
  config.moe.expert_ffn = 48;
  config.moe.shared_experts = 2;
  EXPECT_EQ(config.dense_width(), 100);
  EXPECT_EQ(config.expert_width(), 48);
  EXPECT_EQ(config.shared_width(), 96);
}

TEST(ModelConfig, DenseLayersAreNotMoeLayers) {
  ModelConfig config;
  EXPECT_FALSE(config.is_moe_layer(1));
  config.moe.experts = 4;
  config.moe.dense_layers = {0};
  EXPECT_FALSE(config.is_moe_layer(0));
  EXPECT_TRUE(config.is_moe_layer(1));
}

TEST(ModelConfig, DefaultsAreValid) { EXPECT_TRUE(ModelConfig().violations().empty()); }

TEST(ModelConfig, ExpertsOfAllLayersAreBounded) {
  ModelConfig config;
  config.layers = 256;
  config.moe.experts = 4096;
  EXPECT_TRUE(config.violations().empty());
  config.layers = 257;
  EXPECT_EQ(
      config.violations(),
      std::vector<std::string>{"moe.experts = 4096: must be at most 1048576 / model.layers (257)"});
}

TEST(ModelConfig, EveryViolatedFieldIsListed) {
  ModelConfig config;
  config.layers = 0;
  config.hidden = 100;
  config.heads = 8;
  config.kv_heads = 3;
  config.ffn = -1;
  config.vocab = 1;
  config.context = 0;
  config.activation.order = 5;
  config.norm_epsilon = 0;
  config.rope_theta = -1;
  config.init_std = std::numeric_limits<double>::quiet_NaN();
  config.init_truncation = -3;
  config.moe.experts = 4;
  config.moe.top_k = 5;
  config.moe.expert_ffn = -1;
  config.moe.shared_experts = -1;
  config.moe.balance_loss = -1;
  config.moe.z_loss = std::numeric_limits<double>::infinity();
  config.moe.bias_rate = -1;
  config.moe.capacity_factor = -1;
  config.moe.dense_layers = {7};
  const std::vector<std::string> lines = config.violations();
  for (const char* key :
       {"model.layers = 0: must be in [1, ",
        "model.heads = 8: ", "model.kv_heads = 3: ", "model.ffn = -1: ", "model.vocab = 1: ",
        "model.context = 0: ", "model.order = 5: must be in [2, 4]",
        "model.norm_epsilon = 0: ", "model.rope_theta = -1: ", "model.init_std = nan: ",
        "model.init_truncation = -3: ", "moe.top_k = 5: must be in [1, 4]", "moe.expert_ffn = -1: ",
        "moe.shared_experts = -1: ", "moe.balance_loss = -1: ", "moe.z_loss = inf: ",
        "moe.bias_rate = -1: ", "moe.capacity_factor = -1: ", "moe.dense_layers = 7: "}) {
    bool found = false;
    for (const std::string& line : lines) found = found || line.rfind(key, 0) == 0;
    EXPECT_TRUE(found) << key;
  }
  EXPECT_EQ(lines.size(), 19u);
}

TEST(ModelConfig, OrderMattersOnlyWhereThereIsOne) {
  ModelConfig config;
  config.activation.order = 7;
  config.activation.kind = ActivationKind::gelu;
  EXPECT_TRUE(config.violations().empty());
  config.activation.kind = ActivationKind::polyrelu;
  EXPECT_EQ(config.violations().size(), 1u);
}

}  // namespace
}  // namespace polymoe
