// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/generation.h"

#include <gtest/gtest.h>

namespace polymoe {
namespace {

TEST(StopFilterTest, HoldsBackWhatMayBecomeAStop) {
  StopFilter filter({"END", "\n\n"});
  EXPECT_EQ(filter.add("text E"), "text ");
  EXPECT_EQ(filter.add("N"), "");
  EXPECT_EQ(filter.add("ough\n"), "ENough");
  EXPECT_EQ(filter.stopped(), "");
  EXPECT_EQ(filter.add("\nmore"), "");
  EXPECT_EQ(filter.stopped(), "\n\n");
  EXPECT_EQ(filter.add("nothing any more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilterTest, TheFirstOfSeveralInOnePartCounts) {
  StopFilter filter({"b", "a"});
  EXPECT_EQ(filter.add("xyaab"), "xy");
  EXPECT_EQ(filter.stopped(), "a");
}

TEST(StopFilterTest, GivesTheRestAtTheEnd) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.add("an EN"), "an ");
  EXPECT_EQ(filter.finish(), "EN");
  StopFilter none({});
  EXPECT_EQ(none.add("END"), "END");
}

TEST(GenerationTest, SaysWhatItStoppedAt) {
  EXPECT_EQ(end_text({.tokens = 7, .end = GenerationEnd::tokens}), "--tokens 7");
  EXPECT_EQ(end_text({.end = GenerationEnd::document}), "the end of the document");
  EXPECT_EQ(end_text({.end = GenerationEnd::stop_text, .stop = "END"}), "the stop text \"END\"");
}

}  // namespace
}  // namespace polymoe
