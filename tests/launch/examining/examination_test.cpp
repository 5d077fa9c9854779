// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/examination.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "launch/examining/speed.h"

namespace polymoe {
namespace {

/// Ranks on nodes a, a, b, b that multiply as fast as `rates` say.
std::vector<Examination> ranks_of(const std::vector<double>& rates) {
  std::vector<Examination> ranks;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    Examination rank;
    rank.where = "rank " + std::to_string(i) + (i < 2 ? " (a)" : " (b)");
    rank.figures = {
        {.name = "products", .unit = "GFLOP/s", .where = rank.where, .value = rates[i]}};
    rank.facts = {{"kernel", "6.1"}};
    ranks.push_back(rank);
  }
  return ranks;
}

TEST(ExaminationTest, NamesWhatIsATenthWorseThanTheMedian) {
  EXPECT_TRUE(findings(ranks_of({100, 98, 95, 130}), 0.1).empty());
  const auto lines = findings(ranks_of({100, 102, 80, 99}), 0.1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0], "rank 2 (b): products 80.0 GFLOP/s, 20 % below the median of 99.5");
  EXPECT_TRUE(findings(ranks_of({100, 102, 80, 99}), 0.25).empty());
}

TEST(ExaminationTest, OfLatenciesTheHighOneIsWorse) {
  auto ranks = ranks_of({10, 10, 20, 3});
  for (Examination& rank : ranks) rank.figures[0].more_is_better = false;
  const auto lines = findings(ranks, 0.1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0], "rank 2 (b): products 20.0 GFLOP/s, 100 % above the median of 10.0");
}

TEST(ExaminationTest, NamesTheMinorityOfAFactAndEveryProblem) {
  auto ranks = ranks_of({1, 1, 1, 1});
  ranks[1].facts[0].second = "5.10";
  ranks[3].problems = {"no flock"};
  EXPECT_EQ(findings(ranks, 0.1),
            (std::vector<std::string>{"rank 3 (b): no flock",
                                      "rank 1 (a): kernel is 5.10, elsewhere 6.1"}));
}

TEST(ExaminationTest, IsTheSameWhenReadBack) {
  auto ranks = ranks_of({1.25, 2});
  ranks[0].problems = {"p"};
  ranks[0].remarks = {"r"};
  ranks[0].figures[0].more_is_better = false;
  const Examination back = examination_of(parse_json(to_json(ranks[0]).dump(), "test"));
  EXPECT_EQ(to_json(back).dump(), to_json(ranks[0]).dump());
  EXPECT_EQ(back.figures[0].value, 1.25);
  EXPECT_FALSE(back.figures[0].more_is_better);
}

TEST(ExaminationTest, EveryPairOfRanksMeetsOnce) {
  for (const int ranks : {1, 2, 3, 4, 7, 8}) {
    std::set<std::pair<int, int>> met;
    for (int round = 0; round < rounds_of_pairs(ranks); ++round)
      for (int rank = 0; rank < ranks; ++rank) {
        const int partner = partner_of(rank, round, ranks);
        ASSERT_GE(partner, 0);
        ASSERT_LT(partner, ranks);
        EXPECT_EQ(partner_of(partner, round, ranks), rank);
        if (partner > rank) {
          EXPECT_TRUE(met.emplace(rank, partner).second);
        }
      }
    EXPECT_EQ(met.size(), static_cast<std::size_t>(ranks * (ranks - 1) / 2)) << ranks;
  }
}

}  // namespace
}  // namespace polymoe
