// SPDX-License-Identifier: Apache-2.0
#include "launch/data/mixture.h"

#include <gtest/gtest.h>

#include <set>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

Mixture::Settings two_files(std::vector<Mixture::Stage> stages, std::int64_t last) {
  return {.files = {{.name = "a"}, {.name = "b"}},
          .stages = std::move(stages),
          .linear = false,
          .first = 0,
          .last = last,
          .seed = 3};
}

/// How many of the samples [begin, end) are of file b.
std::int64_t from_b(const Mixture& mixture, std::int64_t begin, std::int64_t end) {
  std::int64_t count = 0;
  for (std::int64_t i = begin; i < end; ++i) count += mixture(i).source == 1;
  return count;
}

/// Whether the files' windows are 0, 1, 2, ... without gaps or repeats, as drawn() counts them.
void expect_no_gaps(const Mixture& mixture, std::int64_t last) {
  std::vector<std::int64_t> next = mixture.drawn(0);
  for (std::int64_t i = 0; i < last; ++i) {
    ASSERT_EQ(mixture.drawn(i), next) << i;
    const auto [source, ordinal] = mixture(i);
    ASSERT_EQ(ordinal, next[source]) << i;
    ++next[source];
  }
}

TEST(Mixture, StagesFollowOneAnother) {
  const Mixture mixture(two_files({{0, {0.75, 0.25}}, {400, {0.0, 1.0}}, {500, {0.5, 0.5}}}, 1000));
  EXPECT_NEAR(from_b(mixture, 0, 400), 100, 2);
  EXPECT_EQ(from_b(mixture, 400, 500), 100);
  EXPECT_NEAR(from_b(mixture, 500, 1000), 250, 2);
  expect_no_gaps(mixture, 1000);
}

TEST(Mixture, SharesMoveLinearlyFromStageToStage) {
  Mixture::Settings settings = two_files({{0, {1.0, 0.0}}, {8000, {0.0, 1.0}}}, 9000);
  settings.linear = true;
  const Mixture mixture(settings);
  EXPECT_NEAR(from_b(mixture, 0, 800), 40, 12);
  EXPECT_NEAR(from_b(mixture, 3600, 4400), 400, 12);
  EXPECT_NEAR(from_b(mixture, 0, 8000), 4000, 40);
  EXPECT_EQ(from_b(mixture, 8000, 9000), 1000);
  expect_no_gaps(mixture, 9000);
}

TEST(Mixture, AFileThatReachedItsCapGivesItsShareToTheOthers) {
  Mixture::Settings settings = two_files({{0, {0.5, 0.5}}}, 100);
  settings.files[1].most = 20;
  const Mixture mixture(settings);
  EXPECT_EQ(from_b(mixture, 0, 100), 20);
  EXPECT_NEAR(from_b(mixture, 0, 38), 19, 1);
  expect_no_gaps(mixture, 100);
  settings.files[0].most = 30;
  const std::string message =
      test::message_of<InvalidArgument>([&] { const Mixture too_few(settings); });
  EXPECT_NE(message.find("data.max_epochs"), std::string::npos) << message;
  EXPECT_NE(message.find("sample 50"), std::string::npos) << message;
}

TEST(Mixture, GoesOnWithOtherWeightsWhereEachFileWas) {
  const Mixture before(two_files({{0, {0.9, 0.1}}}, 100));
  Mixture::Settings settings = two_files({{0, {0.2, 0.8}}}, 300);
  settings.first = 100;
  const std::vector<std::int64_t> drawn = before.drawn(100);
  for (std::size_t i = 0; i < drawn.size(); ++i) settings.files[i].start = drawn[i];
  const Mixture after(settings);
  std::set<std::pair<std::size_t, std::int64_t>> seen;
  for (std::int64_t i = 0; i < 300; ++i) {
    const auto [source, ordinal] = i < 100 ? before(i) : after(i);
    EXPECT_TRUE(seen.emplace(source, ordinal).second) << i;
  }
  EXPECT_NEAR(from_b(after, 100, 300), 160, 2);
}

TEST(Mixture, WeightsAreSharesWhereOneIsGivenElseFactorsOfTheSizes) {
  std::vector<WeightedFile> files = {{.path = "a", .weight = {}}, {.path = "b", .weight = {}}};
  using Shares = std::vector<double>;
  EXPECT_EQ(shares_of(files, {30, 10}, WeightKind::automatic), (Shares{0.75, 0.25}));
  EXPECT_EQ(shares_of(files, {30, 10}, WeightKind::share), (Shares{0.5, 0.5}));
  files[1].weight = 3.0;
  EXPECT_EQ(shares_of(files, {30, 10}, WeightKind::automatic), (Shares{0.25, 0.75}));
  EXPECT_EQ(shares_of(files, {30, 10}, WeightKind::size), (Shares{0.5, 0.5}));
}

}  // namespace
}  // namespace polymoe
