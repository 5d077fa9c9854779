// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "launch/studies/cell_result.h"
#include "launch/studies/statistics.h"
#include "launch/studies/study_report.h"

namespace polymoe {
namespace {

TEST(StatisticsTest, IntervalIsStudents) {
  const Estimate three = estimate({1.0, 2.0, 3.0});
  EXPECT_DOUBLE_EQ(three.mean, 2.0);
  EXPECT_DOUBLE_EQ(three.deviation, 1.0);
  // t(0.975; 2) = 4.302653 of any table.
  EXPECT_NEAR(three.half_width, 4.302653 / std::sqrt(3.0), 1e-6);
  EXPECT_TRUE(std::isnan(estimate({1.0}).half_width)) << "one value says nothing of its spread";
  EXPECT_TRUE(std::isnan(estimate({}).mean));
}

TEST(CellResultTest, SpikesAndDivergenceAreSeen) {
  std::vector<double> loss;
  for (int i = 0; i < 400; ++i) loss.push_back(3.0 - 0.002 * i + 0.02 * (i % 5));
  EXPECT_EQ(count_spikes(loss), 0);
  EXPECT_FALSE(ends_high(loss));
  loss[200] += 2.0;
  loss[201] += 1.5;  // of the same jump
  loss[320] += 1.0;
  EXPECT_EQ(count_spikes(loss), 2);
  EXPECT_FALSE(ends_high(loss));
  for (int i = 370; i < 400; ++i) loss[static_cast<std::size_t>(i)] += 0.7;
  EXPECT_TRUE(ends_high(loss));
}

/// Two activations, two sizes, three seeds; losses as given, curves that end there.
class ComparisonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    study_.axes = {
        {.name = "model.activation",
         .values = {{.label = "polynorm", .assignments = {}},
                    {.label = "swiglu", .assignments = {}}}},
        {.name = "model.layers",
         .values = {{.label = "1", .assignments = {}}, {.label = "4", .assignments = {}}}}};
    study_.baseline = "swiglu";
    study_.file = "made.ini";
    for (std::uint64_t seed = 1; seed <= 3; ++seed)
      for (std::size_t a = 0; a < 2; ++a)
        for (std::size_t size = 0; size < 2; ++size) {
          Cell cell;
          cell.name = "cell" + std::to_string(study_.cells.size());
          cell.values = {a, size};
          cell.seed = seed;
          cell.config.train.steps = 100;
          cell.config.model.layers = size == 0 ? 1 : 4;
          CellResult result;
          result.cell = study_.cells.size();
          result.state = {
              .kind = CellState::Kind::finished, .steps = 100, .exit_code = {}, .last_line = ""};
          // A seed shifts both alike; what is left of the difference is 0.1, and a little.
          const double loss = (size == 0 ? 4.0 : 3.0) + 0.5 * static_cast<double>(seed) +
                              (a == 0 ? -0.1 + 0.001 * static_cast<double>(seed) : 0.0);
          for (int step = 1; step <= 100; ++step) {
            result.curve.tokens.push_back(step);
            result.curve.loss.push_back(loss + 1.0 - step / 100.0);
          }
          result.train_loss = result.valid_loss = loss;
          study_.cells.push_back(cell);
          results_.push_back(result);
        }
  }

  Study study_;
  std::vector<CellResult> results_;
};

TEST_F(ComparisonTest, DifferencesArePairedBySeed) {
  const Comparison comparison = compare(study_, results_);
  EXPECT_TRUE(comparison.by_validation);
  ASSERT_EQ(comparison.groups.size(), 4U);
  ASSERT_EQ(comparison.differences.size(), 2U);
  const PairedDifference& difference = comparison.differences[0];
  EXPECT_EQ(difference.difference.count, 3U);
  EXPECT_NEAR(difference.difference.mean, -0.098, 1e-12);
  EXPECT_NEAR(difference.difference.deviation, 0.001, 1e-12) << "the seeds' own shifts are gone";
  EXPECT_NEAR(comparison.groups[difference.group].loss.deviation, 0.501, 1e-3);
  EXPECT_LT(difference.difference.high(), 0.0);
}

TEST_F(ComparisonTest, MultiplierIsThatOfCurvesWhereThereIsOneLength) {
  const Comparison comparison = compare(study_, results_);
  ASSERT_EQ(comparison.differences.size(), 2U);
  // Of a curve that falls by 0.01 a step, 0.098 less are reached some 10 of 100 steps earlier. That
  // the larger baseline has a lower loss for more compute says nothing about it.
  for (const PairedDifference& difference : comparison.differences) {
    EXPECT_TRUE(difference.by_curve);
    EXPECT_NEAR(difference.multiplier.value(), 1.0 / 0.91, 0.02);
  }
}

TEST_F(ComparisonTest, MultiplierIsBetweenLengthsOfTheSameSize) {
  // The same cells once more, four times as long; their losses are 0.4 lower.
  const std::size_t short_ones = study_.cells.size();
  for (std::size_t i = 0; i < short_ones; ++i) {
    Cell cell = study_.cells[i];
    cell.config.train.steps *= 4;
    CellResult result = results_[i];
    result.cell = study_.cells.size();
    result.valid_loss = *result.valid_loss - 0.4;
    study_.cells.push_back(cell);
    results_.push_back(result);
  }
  const Comparison comparison = compare(study_, results_);
  ASSERT_EQ(comparison.differences.size(), 4U);
  for (const std::size_t d : {0U, 1U}) {  // the short ones, small and large
    const PairedDifference& difference = comparison.differences[d];
    const double own = comparison.groups[difference.group].loss.mean;
    const double base = comparison.groups[difference.baseline].loss.mean;
    EXPECT_FALSE(difference.by_curve);
    // The line through the baseline's two lengths of this size, in logarithms.
    const double t = std::log(base / own) / std::log(base / (base - 0.4));
    EXPECT_NEAR(difference.multiplier.value(), std::pow(4.0, t), 1e-9) << d;
    EXPECT_GT(*difference.multiplier, 1.0) << "a lower loss at equal compute";
  }
  EXPECT_TRUE(comparison.differences[2].by_curve) << "below the longest of the baseline";
}

TEST_F(ComparisonTest, UnfinishedAndDivergedCellsAreLeftOut) {
  results_[0].state.kind = CellState::Kind::unfinished;
  results_[4].diverged = true;
  results_[8].valid_loss.reset();
  const Comparison comparison = compare(study_, results_);
  EXPECT_FALSE(comparison.by_validation) << "one finished cell has no validation loss";
  const SeedGroup& group = comparison.groups[comparison.differences[0].group];
  EXPECT_EQ(group.results.size(), 1U);
  EXPECT_EQ(group.expected, 3U);
  EXPECT_EQ(comparison.differences[0].difference.count, 1U);
  const std::string text = report_text(study_, results_, comparison);
  EXPECT_NE(text.find("1 of 3"), std::string::npos) << text;
  EXPECT_NE(text.find("one seed: no interval"), std::string::npos) << text;
  EXPECT_NE(text.find("cell0  unfinished"), std::string::npos) << text;
  EXPECT_NE(results_json(study_, results_, comparison).dump().find("\"diverged\":true"),
            std::string::npos);
}

}  // namespace
}  // namespace polymoe
