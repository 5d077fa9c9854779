// SPDX-License-Identifier: Apache-2.0
#include "launch/data/token_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::TemporaryDirectory;

class TokenDataTest : public ::testing::Test {
 protected:
  // A file of one document with the ids first, first + 1, ...
  WeightedFile file(const std::string& name, std::int32_t first, std::int64_t tokens,
                    double weight) {
    const auto prefix = directory_.path() / name;
    MegatronWriter writer(prefix, 60000);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
    std::iota(ids.begin(), ids.end(), first);
    writer.add(ids);
    writer.finish();
    return {prefix.string() + ".bin", weight};
  }
  static TokenData::Settings settings(std::int64_t context, std::uint64_t seed,
                                      std::int64_t vocab = 60000) {
    return {.context = context, .vocab = vocab, .seed = seed, .samples = 0};
  }
  static void all_windows(const TokenData& data) {
    for (std::int64_t i = 0; i < data.windows(0); ++i) sample(data, i);
  }
  static std::vector<std::int32_t> sample(const TokenData& data, std::int64_t index) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.context()), -7);
    std::vector<std::int32_t> targets(tokens);
    data.sample(index, {.tokens = tokens.data(), .targets = targets.data()});
    for (std::size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(targets[i], tokens[i] + 1);
    return tokens;
  }
  TemporaryDirectory directory_;
};

TEST_F(TokenDataTest, EveryWindowOncePerPass) {
  const std::int64_t context = 16, windows = 37;
  DataConfig config;
  config.train = {file("a", 0, windows * context + 1, 1.0)};
  const TokenData data(config, settings(context, 5));
  std::vector<std::int32_t> first_pass, second_pass;
  for (std::int64_t i = 0; i < windows; ++i) first_pass.push_back(sample(data, i).front());
  for (std::int64_t i = 0; i < windows; ++i)
    second_pass.push_back(sample(data, windows + i).front());
  EXPECT_NE(first_pass, second_pass);
  for (auto* pass : {&first_pass, &second_pass}) {
    EXPECT_FALSE(std::is_sorted(pass->begin(), pass->end()));
    std::sort(pass->begin(), pass->end());
    for (std::int64_t i = 0; i < windows; ++i)
      EXPECT_EQ((*pass)[static_cast<std::size_t>(i)], i * context);
  }
}

TEST_F(TokenDataTest, DependsOnSeedAndIndexAlone) {
  DataConfig config;
  config.train = {file("a", 0, 4001, 1.0), file("b", 10000, 3000, 2.0)};
  const TokenData data(config, settings(8, 11)), again(config, settings(8, 11)),
      other(config, settings(8, 12));
  int differing = 0;
  for (std::int64_t i = 199; i >= 0; --i) {
    EXPECT_EQ(sample(data, i), sample(again, i));
    differing += sample(data, i) != sample(other, i);
  }
  EXPECT_GT(differing, 150);
}

TEST_F(TokenDataTest, FilesTakeTurnsByWeight) {
  DataConfig config;
  config.train = {file("a", 0, 4001, 1.0), file("b", 10000, 3000, 3.0)};
  const TokenData data(config, settings(8, 11));
  int from_b = 0;
  for (std::int64_t i = 0; i < 400; ++i) from_b += sample(data, i).front() >= 10000;
  EXPECT_NEAR(from_b, 300, 2);
  EXPECT_EQ(data.tokens(), 7001);
}

TEST_F(TokenDataTest, WithoutWeightsOnePassShowsEveryWindowOnce) {
  DataConfig config;
  config.train = {file("long", 0, 180 * 8 + 1, 1.0), file("short", 10000, 20 * 8 + 1, 1.0)};
  for (WeightedFile& file : config.train) file.weight.reset();
  const auto seen = [&] {
    const TokenData data(config, settings(8, 11));
    std::set<std::int32_t> windows;
    for (std::int64_t i = 0; i < 200; ++i) windows.insert(sample(data, i).front());
    return windows.size();
  };
  EXPECT_EQ(seen(), 200U);
  config.weights = WeightKind::share;
  EXPECT_EQ(seen(), 100U + 20U);
  config.weights = WeightKind::size;
  config.train[1].weight = 4.0;  // four passes of the short one for one of the long one
  EXPECT_NEAR(static_cast<double>(seen()), 200.0 * 180 / 260 + 20, 2.0);
}

TEST_F(TokenDataTest, RefusesWhatIsTooShortOrBeyondTheVocabulary) {
  DataConfig config;
  config.train = {file("short", 0, 16, 1.0)};
  const std::string too_short =
      message_of<InputFileError>([&] { TokenData(config, settings(16, 0)); });
  EXPECT_NE(too_short.find("short.bin: has 16 tokens"), std::string::npos) << too_short;
  EXPECT_NE(too_short.find("17"), std::string::npos) << too_short;
  EXPECT_NO_THROW(TokenData(config, settings(15, 0)));

  config.train = {file("ids", 0, 300, 1.0)};
  EXPECT_NO_THROW(all_windows(TokenData(config, settings(16, 0, 300))));
  const std::string beyond =
      message_of<InputFileError>([&] { all_windows(TokenData(config, settings(16, 0, 256))); });
  EXPECT_NE(beyond.find("256"), std::string::npos) << beyond;
  EXPECT_NE(beyond.find("ids.bin"), std::string::npos) << beyond;

  config.train = {{(directory_.path() / "absent").string(), 1.0}};
  EXPECT_THROW(TokenData(config, settings(16, 0)), InputFileError);
  config.train.clear();
  EXPECT_THROW(TokenData(config, settings(16, 0)), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
