// SPDX-License-Identifier: Apache-2.0
#include "launch/data/read_ahead.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

class ReadAheadTest : public testing::Test {
 protected:
  ReadAheadTest() {
    MegatronWriter writer(directory_.path() / "t", 60000);
    std::vector<std::int32_t> ids(8 * 100 + 1);
    std::iota(ids.begin(), ids.end(), 0);
    writer.add(ids);
    writer.finish();
  }
  TokenData data(std::int64_t vocab) const {
    DataConfig config;
    config.train = {{.path = (directory_.path() / "t").string(), .weight = {}}};
    return TokenData(config, {.context = 8, .vocab = vocab, .seed = 5, .samples = 100});
  }
  test::TemporaryDirectory directory_;
};

TEST_F(ReadAheadTest, GivesTheSamplesOfEveryStepInTheirOrder) {
  const TokenData tokens = data(60000);
  ReadAhead steps(tokens, {.first = 6, .per_step = 4, .last = 96, .samples = {1, 3}});
  std::vector<std::int32_t> ids(8), targets(8);
  for (std::int64_t first = 6; first < 94; first += 4) {
    const ReadAhead::Step step = steps.next();
    EXPECT_EQ(step.predicted, 16);
    for (const std::int64_t i : {0, 1}) {
      tokens.sample(first + 1 + 2 * i, {.tokens = ids.data(), .targets = targets.data()});
      EXPECT_TRUE(std::equal(ids.begin(), ids.end(), step.tokens.begin() + 8 * i)) << first;
      EXPECT_TRUE(std::equal(targets.begin(), targets.end(), step.targets.begin() + 8 * i));
    }
  }
}

TEST_F(ReadAheadTest, TellsOfABadIdAtTheStepThatHasIt) {
  const TokenData tokens = data(790);  // the last window holds more
  std::int64_t bad = 0;
  std::vector<std::int32_t> ids(8), targets(8);
  try {
    for (;; ++bad) tokens.sample(bad, {.tokens = ids.data(), .targets = targets.data()});
  } catch (const InputFileError&) {
  }
  ReadAhead steps(tokens, {.first = 0, .per_step = 1, .last = 100, .samples = {0}});
  for (std::int64_t step = 0; step < bad; ++step) EXPECT_NO_THROW(steps.next()) << step;
  EXPECT_THROW(steps.next(), InputFileError);
  EXPECT_THROW(steps.next(), InputFileError);
}

TEST_F(ReadAheadTest, EndsWithStepsLeftAndWithNone) {
  const TokenData tokens = data(60000);
  const ReadAhead unused(tokens, {.first = 0, .per_step = 1, .last = 100, .samples = {0}});
  ReadAhead empty(tokens, {.first = 0, .per_step = 1, .last = 0, .samples = {0}});
  EXPECT_THROW(empty.next(), Error);
}

}  // namespace
}  // namespace polymoe
