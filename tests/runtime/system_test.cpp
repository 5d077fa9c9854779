// SPDX-License-Identifier: Apache-2.0
#include "runtime/system.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <string>
#include <vector>

#include "runtime/log.h"

namespace polymoe {
namespace {

TEST(System, ReadsTheQuotaOfAControlGroup) {
  EXPECT_EQ(parse_cpu_max("150000 100000"), 1.5);
  EXPECT_EQ(parse_cpu_max("400000 100000"), 4.0);
  EXPECT_EQ(parse_cpu_max("max 100000"), std::nullopt);
  EXPECT_EQ(parse_cpu_max(""), std::nullopt);
  EXPECT_EQ(parse_cpu_max("100000 0"), std::nullopt);
}

TEST(System, FollowsTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_cores(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(System, PeakMemoryGrowsWithUse) {
  const std::int64_t before = peak_memory_bytes();
  constexpr std::size_t more = std::size_t{64} << 20;
  std::vector<char> memory(static_cast<std::size_t>(before) + more, 1);
  EXPECT_GE(peak_memory_bytes(), static_cast<std::int64_t>(more));
  EXPECT_GT(peak_memory_bytes(), before);
  EXPECT_LT(peak_memory_bytes(), usable_memory_bytes());
  EXPECT_EQ(memory.back(), 1);
}

TEST(System, NamesTheMachine) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_FALSE(processor_name().empty());
}

TEST(Log, OnlyRankZeroInforms) {
  testing::internal::CaptureStderr();
  Log first(0), second(1);
  first.info("from the first");
  second.info("from the second");
  second.warning("100 {} %v");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find(" rank 0: from the first\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("from the second"), std::string::npos) << text;
  EXPECT_NE(text.find(" rank 1: warning: 100 {} %v\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace polymoe
