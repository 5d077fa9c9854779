// SPDX-License-Identifier: Apache-2.0
#include "launch/config/suggestion.h"

#include <gtest/gtest.h>

#include "launch/config/option_table.h"

namespace polymoe {
namespace {

TEST(SuggestionTest, FindsEndsOfKeysSlipsAndOtherWords) {
  EXPECT_EQ(suggested_key("steps"), "train.steps");
  EXPECT_EQ(suggested_key("model.top_k"), "moe.top_k");
  EXPECT_EQ(suggested_key("moe.topk"), "moe.top_k");
  EXPECT_EQ(suggested_key("model.layer"), "model.layers");
  EXPECT_EQ(suggested_key("optimizer.learning_rate"), "optimizer.lr");
  EXPECT_EQ(suggested_key("skew"), "moe.row_budget");
  EXPECT_EQ(suggested_key("learning-rate"), "optimizer.lr");
  EXPECT_EQ(suggested_key("epochs"), "train.steps");
  EXPECT_EQ(suggested_key("batch_size"), "train.global_batch");
  EXPECT_EQ(suggested_key("max_steps"), "train.steps");
  EXPECT_EQ(suggested_key("seq_len"), "model.context");
  EXPECT_EQ(suggested_key("num_experts"), "moe.experts");
  EXPECT_EQ(suggested_key("output_dir"), "run.dir");
}

TEST(SuggestionTest, SaysNothingWhereNothingIsNear) {
  EXPECT_EQ(suggested_key("verbose"), "");
  EXPECT_EQ(suggested_key("x"), "");
  EXPECT_EQ(suggested_key(""), "");
}

// Every synonym leads to a key that there is.
TEST(SuggestionTest, SuggestsKeysThatExist) {
  for (const char* word :
       {"learning_rate", "warmup_steps", "lr_scheduler", "grad_clip", "dtype", "hidden_size",
        "d_model", "n_layer", "num_heads", "intermediate_size", "vocab_size", "router_top_k",
        "aux_loss_coef", "ep", "save_interval", "resume_from_checkpoint", "num_threads", "dataset"})
    EXPECT_NE(find_option(suggested_key(word)), nullptr) << word;
}

}  // namespace
}  // namespace polymoe
