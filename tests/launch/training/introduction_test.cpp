// SPDX-License-Identifier: Apache-2.0
#include "launch/training/introduction.h"

#include <gtest/gtest.h>

#include "launch/config/config.h"

namespace polymoe {
namespace {

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' not in\n" << text;
}

Config quickstart(std::vector<std::string> overrides = {}) {
  overrides.insert(overrides.begin(), {"--run.dir=runs/mine", "--train.steps=400"});
  return read_config(POLYMOE_CONFIGS "/quickstart.ini", overrides);
}

TEST(IntroductionTest, SaysWhatARunIs) {
  RunIntroduction run{.config = quickstart(),
                      .layout = {.ranks = 2, .threads = 1},
                      .memory = std::size_t{12} << 30,
                      .device = "Some Processor",
                      .precision = "f32",
                      .tokenizer = "data/tokens.model"};
  run.plan = plan_memory(run.config, run.layout);
  expect_parts(
      joined(introduction(run)),
      {"model       9.45M parameters, 4.73M active; 4 layers, hidden 256, 4 heads, polynorm, "
       "8 experts of 384, 2 a token\n",
       "device      Some Processor\n",
       "ranks       2 ranks of 1 thread, 2 share out the experts, f32\n",
       "batch       16 sequences of 256 = 4,096 tokens a step: 8 a rank and pass (automatic), "
       "1 pass\n",
       "length      400 steps, 1.64M tokens\n", "GiB planned of 12.00 a rank may take\n",
       "tokenizer   data/tokens.model\n", "directory   runs/mine\n"});
  run.resumed_from = "runs/mine/checkpoints/step-00000100";
  run.steps_done = 100;
  run.tokenizer = "";
  expect_parts(joined(introduction(run)), {"400 steps, 1.64M tokens; 100 steps done\n",
                                           "goes on     from runs/mine/checkpoints/step-00000100\n",
                                           "tokenizer   none beside the data"});
}

TEST(IntroductionTest, SharesThatAreNotEvenAreSaid) {
  RunIntroduction run{.config = quickstart({"--parallel.expert=1"}),
                      .layout = {.ranks = 3, .threads = 1},
                      .precision = "f32"};
  expect_parts(joined(introduction(run)), {"5 or 6 a rank and pass (automatic)",
                                           "3 ranks of 1 thread, each with all experts"});
}

TEST(SummaryTest, SaysWhereEverythingIsAndWhatComesNext) {
  RunSummary run{.directory = "runs/mine",
                 .steps_done = 400,
                 .steps = 400,
                 .tokens = 1638400,
                 .seconds = 200.0,
                 .steps_here = 400,
                 .tokens_here = 1638400,
                 .loss = 3.1234,
                 .valid_loss = 3.5,
                 .tokens_to_evaluate = "data/tokens-valid",
                 .has_tokenizer = true};
  expect_parts(
      joined(summary(run)),
      {"loss        3.1234 over the last steps; validation 3.5000, perplexity 33.12\n",
       "time        3:20 for 400 steps, 8192 tokens/s all in all\n",
       "tokens      1,638,400 since the beginning, step 400 of 400\n", "runs/mine/metrics.jsonl",
       "polymoe generate --checkpoint runs/mine --prompt TEXT\n",
       "polymoe eval --checkpoint runs/mine --tokens data/tokens-valid\n", "export-hf"});
  run.has_tokenizer = false;
  expect_parts(joined(summary(run)), {"next        polymoe eval --checkpoint"});
  run.steps_done = 100;
  const std::string stopped = joined(summary(run));
  expect_parts(stopped, {"step 100 of 400", "go on       the same command again\n"});
  EXPECT_EQ(stopped.find("generate"), std::string::npos);
}

}  // namespace
}  // namespace polymoe
