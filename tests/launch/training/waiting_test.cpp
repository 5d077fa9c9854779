// SPDX-License-Identifier: Apache-2.0
#include "launch/training/waiting.h"

#include <gtest/gtest.h>

#include "launch/training/rank_reports.h"

namespace polymoe {
namespace {

TEST(WaitingTest, WhatTheFullestRankTakesIsRoutingTax) {
  // Half of the work is the experts'; rank 1 has 1.5 times the mean rank's rows, so it takes 1.25
  // s.
  const WaitingReport report = explain_waiting({{.computing = 0.75, .waiting = 0.6, .rows = 50.0},
                                                {.computing = 1.25, .waiting = 0.1, .rows = 150.0}},
                                               0.5, 1.5);
  EXPECT_DOUBLE_EQ(report.computing, 1.0);
  EXPECT_DOUBLE_EQ(report.exposed_exchange, 0.1);
  EXPECT_DOUBLE_EQ(report.waiting, 0.25);
  EXPECT_DOUBLE_EQ(report.routing_tax, 0.25);
  EXPECT_DOUBLE_EQ(report.hardware_tax, 0.0);
  EXPECT_DOUBLE_EQ(report.slowness[0], 1.0);
  EXPECT_DOUBLE_EQ(report.slowness[1], 1.0);
}

TEST(WaitingTest, ARankThatIsSlowForItsRowsIsHardwareTax) {
  const WaitingReport report = explain_waiting({{.computing = 1.0, .waiting = 1.2, .rows = 100.0},
                                                {.computing = 1.0, .waiting = 1.2, .rows = 100.0},
                                                {.computing = 2.0, .waiting = 0.2, .rows = 100.0}},
                                               0.5, 1.0);
  EXPECT_DOUBLE_EQ(report.routing_tax, 0.0);
  EXPECT_NEAR(report.hardware_tax, 2.0 / 3.0, 1e-12);
  EXPECT_EQ(report.slowness, (std::vector<double>{1.0, 1.0, 2.0}));
}

TEST(WaitingTest, ADenseModelHasNoRows) {
  const WaitingReport report = explain_waiting({{.computing = 1.0, .waiting = 0.0}}, 0.0, 1.0);
  EXPECT_EQ(report.slowness, std::vector<double>{1.0});
  EXPECT_EQ(report.waiting, 0.0);
  EXPECT_EQ(expert_share(ModelConfig{}), 0.0);
}

TEST(WaitingTest, LoadIsOfTheFullestRankOfEachLayer) {
  RankLoad load(2);
  EXPECT_EQ(load.fullest_over_mean(), 1.0);
  // Ranks 0 and 1 are the fullest ones in turn, which evens out over layers but not in any of them.
  load.add({{.layer = 0, .expert_rows = {3, 3, 1, 1}}, {.layer = 1, .expert_rows = {1, 1, 3, 3}}});
  EXPECT_DOUBLE_EQ(load.fullest_over_mean(), 1.5);
}

TEST(RankReportTest, NamesTheSlowestRanksWithTheirMachines) {
  RankReport report{.first_step = 101,
                    .last_step = 200,
                    .ranks = {{1.0, 1.2, 1.0}, {1.0, 1.2, 1.0}, {2.0, 0.2, 1.0}},
                    .machines = {"", "", "900 of 1980 MHz, held back by: power cap"},
                    .hosts = {"a", "a", "b"},
                    .waiting = {}};
  report.waiting = explain_waiting(report.ranks, 0.5, 1.0);
  EXPECT_TRUE(report.is_slow_hardware());
  const std::string text = report.text();
  EXPECT_NE(text.find("steps 101 to 200"), std::string::npos) << text;
  EXPECT_NE(text.find("slowest for its rows: rank 2 on b, 2.00 times the median (900 of 1980 MHz, "
                      "held back by: power cap)"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("rank 0 on"), std::string::npos) << text;
  report.ranks[2] = report.ranks[0];
  report.waiting = explain_waiting(report.ranks, 0.5, 1.0);
  EXPECT_FALSE(report.is_slow_hardware());
  EXPECT_EQ(report.text().find("slowest"), std::string::npos);
}

}  // namespace
}  // namespace polymoe
