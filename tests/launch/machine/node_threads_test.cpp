// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/node_threads.h"

#include <gtest/gtest.h>

#include "runtime/system.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

/// A rank on `host` that may use the cores [begin, end) of 16.
RankCores rank_on(std::uint64_t host, std::size_t begin, std::size_t end, int quota = 16) {
  RankCores rank{.host = host, .cores = std::vector<bool>(16), .quota = quota};
  for (std::size_t core = begin; core < end; ++core) rank.cores[core] = true;
  return rank;
}

TEST(NodeThreadsTest, UnboundRanksShareTheNode) {
  const std::vector<RankCores> two(2, rank_on(1, 0, 16));
  EXPECT_EQ(share_of_cores(two, 0), 8);
  EXPECT_EQ(share_of_cores(two, 1), 8);
  const std::vector<RankCores> three(3, rank_on(1, 0, 12));
  EXPECT_EQ(share_of_cores(three, 2), 4);
  const std::vector<RankCores> four_on_two(4, rank_on(1, 0, 2));
  EXPECT_EQ(share_of_cores(four_on_two, 3), 1);
}

TEST(NodeThreadsTest, BoundRanksKeepTheirCores) {
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 4), rank_on(1, 4, 8)}, 0), 4);
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 8), rank_on(1, 0, 8), rank_on(1, 8, 16)}, 1), 4);
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 8), rank_on(1, 0, 8), rank_on(1, 8, 16)}, 2), 8);
}

TEST(NodeThreadsTest, ABindingThatLeavesCoresIdleGetsAHint) {
  EXPECT_EQ(binding_hint(8, 16, 2), "");
  EXPECT_EQ(binding_hint(16, 16, 2), "");
  EXPECT_EQ(binding_hint(2, 0, 1), "");
  const std::string hint = binding_hint(1, 64, 2);
  EXPECT_NE(hint.find("bound to 1 of the 64 cores"), std::string::npos) << hint;
  EXPECT_NE(hint.find("slot:PE=32"), std::string::npos) << hint;
}

TEST(NodeThreadsTest, OtherNodesDoNotCount) {
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 8), rank_on(2, 0, 8)}, 0), 8);
}

TEST(NodeThreadsTest, QuotaOfTheNodeIsShared) {
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 16, 6), rank_on(1, 0, 16, 6)}, 0), 3);
  EXPECT_EQ(share_of_cores({rank_on(1, 0, 16, 1), rank_on(1, 0, 16, 1)}, 0), 1);
}

TEST(NodeThreadsTest, RanksOfThisProcessShareItsCores) {
  std::vector<int> threads(2);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    threads[static_cast<std::size_t>(world->rank())] = threads_per_rank(*world);
  });
  EXPECT_EQ(threads[0], threads[1]);
  EXPECT_GE(threads[0], 1);
  EXPECT_LE(threads[0], std::max(1, usable_cores() / 2));
}

}  // namespace
}  // namespace polymoe
