// SPDX-License-Identifier: Apache-2.0
#include "launch/step/micro_batch.h"

#include <gtest/gtest.h>

#include "launch/config/step_shares.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

constexpr PlannedLayout one_rank{.ranks = 1, .threads = 1};

Config small(std::vector<std::string> overrides = {}) {
  return read_config(POLYMOE_CONFIGS "/quickstart.ini", overrides);
}

std::int64_t chosen(Config config, const PlannedLayout& layout, std::size_t memory) {
  choose_micro_batch(config, layout, memory);
  return shares_of(config, layout.ranks).largest();
}

TEST(MicroBatchTest, IsAsLargeAsTheMemoryAllows) {
  const Config config = small({"--parallel.expert=1"});
  EXPECT_EQ(chosen(config, one_rank, std::size_t{1} << 40), 16);  // the whole batch
  const auto needed = [&](std::int64_t sequences) {
    return plan_memory(
               small({"--parallel.expert=1", "--train.micro_batch=" + std::to_string(sequences)}),
               one_rank)
        .rank_total();
  };
  EXPECT_EQ(chosen(config, one_rank, needed(8)), 8);
  EXPECT_EQ(chosen(config, one_rank, needed(8) - 1), 4);
  EXPECT_EQ(chosen(config, one_rank, needed(1)), 1);
  EXPECT_EQ(chosen(config, one_rank, 0), 1);  // for require_host_memory to refuse
}

// What an uneven router may take is in the plan already: moe.row_budget bounds it.
TEST(MicroBatchTest, TakesWhatThePlanSays) {
  const PlannedLayout two{.ranks = 2, .threads = 1};
  const MemoryPlan plan = plan_memory(small({"--train.micro_batch=8"}), two);
  EXPECT_EQ(chosen(small(), two, plan.rank_total()), 8);
  EXPECT_LT(chosen(small(), two, plan.rank_total() - 1), 8);
}

TEST(MicroBatchTest, AGivenOneStays) {
  Config config = small({"--train.micro_batch=8"});
  choose_micro_batch(config, {.ranks = 2, .threads = 1}, 0);
  EXPECT_EQ(shares_of(config, 2).largest(), 8);
}

TEST(MicroBatchTest, AStepThatCannotFitTheHostIsRefused) {
  const MemoryPlan plan =
      plan_memory(small({"--model.context=1000000", "--parallel.expert=1"}), one_rank);
  require_host_memory(plan, plan.rank_total());
  const std::string message =
      test::message_of<InvalidArgument>([&] { require_host_memory(plan, std::size_t{1} << 30); });
  EXPECT_NE(message.find("its part of this machine's is 1.00"), std::string::npos) << message;
  EXPECT_NE(message.find("model.context"), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe
