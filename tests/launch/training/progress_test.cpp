// SPDX-License-Identifier: Apache-2.0
#include "launch/training/progress.h"

#include <gtest/gtest.h>

#include <memory>

namespace polymoe {
namespace {

TEST(ProgressTest, SpellsTimes) {
  EXPECT_EQ(clock_text(0.4), "0:00");
  EXPECT_EQ(clock_text(7.0), "0:07");
  EXPECT_EQ(clock_text(125.2), "2:05");
  EXPECT_EQ(clock_text(3723.0), "1:02:03");
  EXPECT_EQ(clock_text(59.6), "1:00");
}

TEST(ProgressTest, LineTellsStepLossRateAndTimeLeft) {
  ProgressState state{.step = 120, .last_step = 400, .loss = 3.14159, .tokens_per_second = 12345};
  EXPECT_EQ(progress_line(state), "step 120/400  loss 3.1416  12.3k tokens/s");
  state.seconds_left = 125.0;
  state.tokens_per_second = 987.4;
  EXPECT_EQ(progress_line(state), "step 120/400  loss 3.1416  987 tokens/s  2:05 left");
  state.tokens_per_second = 2.5e6;
  EXPECT_EQ(progress_line(state), "step 120/400  loss 3.1416  2.50M tokens/s  2:05 left");
}

/// What three steps and a note leave in the output.
std::string shown(bool terminal) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  {
    Progress progress(file.get(), terminal, 1, 3);
    progress.step_done(1, 4.0, 100.0, 2.0);
    progress.step_done(2, 3.5, 100.0, 2.0);
    progress.note("validated");
    progress.step_done(3, 3.0, 100.0, 2.0);
  }
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
  return text;
}

TEST(ProgressTest, PlainLinesInAFile) {
  // The second step comes too soon after the first one for a line of its own.
  EXPECT_EQ(shown(false),
            "step 1/3  loss 4.0000  100 tokens/s  0:04 left\n"
            "validated\n"
            "step 3/3  loss 3.0000  100 tokens/s  0:00 left\n");
}

TEST(ProgressTest, OneLineThatRewritesItselfOnATerminal) {
  EXPECT_EQ(shown(true),
            "\rstep 1/3  loss 4.0000  100 tokens/s  0:04 left\x1b[K"
            "\r\x1b[Kvalidated\n"
            "\rstep 3/3  loss 3.0000  100 tokens/s  0:00 left\x1b[K\n");
}

}  // namespace
}  // namespace polymoe
