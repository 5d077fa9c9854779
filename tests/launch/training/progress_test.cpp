// SPDX-License-Identifier: Apache-2.0
#include "launch/training/progress.h"

#include <gtest/gtest.h>

#include <memory>

namespace polymoe {
namespace {

constexpr int wide = 200;

TEST(TrainingLineTest, TellsWhatMattersFirst) {
  ProgressState state{.step = 120,
                      .last_step = 400,
                      .loss = 3.14159,
                      .grad_norm = 0.5234,
                      .lr = 1.9e-3,
                      .tokens_per_second = 12345,
                      .mfu = 0.412};
  EXPECT_EQ(training_line(state, wide),
            "step 120/400  loss 3.1416  12.3k tokens/s  norm 0.523  lr 0.0019  mfu 41 %");
  state.seconds_left = 125.0;
  state.load = 1.318;
  EXPECT_EQ(training_line(state, wide),
            "step 120/400  loss 3.1416  12.3k tokens/s  2:05 left  norm 0.523  lr 0.0019  "
            "mfu 41 %  load 1.32");
  state.dead_experts = 2;
  EXPECT_TRUE(training_line(state, wide).ends_with("load 1.32  2 dead"));
}

TEST(TrainingLineTest, LeavesOutWhatDoesNotFit) {
  const ProgressState state{.step = 120,
                            .last_step = 400,
                            .loss = 3.14159,
                            .tokens_per_second = 12345,
                            .seconds_left = 125.0};
  EXPECT_EQ(training_line(state, 58), "step 120/400  loss 3.1416  12.3k tokens/s  2:05 left");
  EXPECT_EQ(training_line(state, 40), "step 120/400  loss 3.1416");
  EXPECT_EQ(training_line(state, 3), "step 120/400");  // never nothing
}

/// What three steps and a note leave in the output.
std::string shown(bool terminal) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  {
    TrainingProgress progress({.file = file.get(), .terminal = terminal, .columns = 50}, 1, 3);
    StepMetrics metrics{.step = 1, .loss = 4.0, .tokens_per_second = 100.0};
    progress.step_done(metrics, 2.0);
    metrics.step = 2;
    metrics.loss = 3.5;
    progress.step_done(metrics, 2.0);
    progress.note("validated");
    metrics.step = 3;
    metrics.loss = 3.0;
    progress.step_done(metrics, 2.0);
  }
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
  return text;
}

TEST(TrainingProgressTest, PlainLinesInAFileWithAMeanLoss) {
  // The second step comes too soon after the first one for a line of its own.
  EXPECT_EQ(shown(false),
            "step 1/3  loss 4.0000  100 tokens/s  0:04 left  norm 0  lr 0  mfu 0 %\n"
            "validated\n"
            "step 3/3  loss 3.5000  100 tokens/s  0:00 left  norm 0  lr 0  mfu 0 %\n");
}

TEST(TrainingProgressTest, OneLineThatRewritesItselfOnATerminal) {
  EXPECT_EQ(shown(true),
            "\rstep 1/3  loss 4.0000  100 tokens/s  0:04 left\x1b[K"
            "\r\x1b[Kvalidated\n"
            "\rstep 3/3  loss 3.5000  100 tokens/s  0:00 left\x1b[K\n");
}

}  // namespace
}  // namespace polymoe
