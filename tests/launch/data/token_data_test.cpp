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

TEST(Permutation, VisitsEveryElementOnce) {
  for (const std::int64_t size : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    const Permutation order(size, 42, 0);
    std::vector<bool> seen(static_cast<std::size_t>(size), false);
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t to = order(i);
      ASSERT_GE(to, 0);
      ASSERT_LT(to, size);
      ASSERT_FALSE(seen[static_cast<std::size_t>(to)]) << "size " << size << ", element " << i;
      seen[static_cast<std::size_t>(to)] = true;
    }
  }
}

TEST(Permutation, EpochsAndKeysOrderAnew) {
  const std::int64_t size = 1000;
  const Permutation first(size, 1, 0), again(size, 1, 0), epoch(size, 1, 1), key(size, 2, 0);
  int same_as_identity = 0, same_epoch = 0, same_key = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    EXPECT_EQ(first(i), again(i));
    same_as_identity += first(i) == i;
    same_epoch += first(i) == epoch(i);
    same_key += first(i) == key(i);
  }
  // Each is Poisson with mean 1 for random permutations.
  EXPECT_LT(same_as_identity, 10);
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(same_key, 10);
}

TEST(Interleaving, FollowsTheWeightsAndCountsWithoutGaps) {
  const std::vector<double> weights = {3.0, 0.5, 1.0, 5.5};
  const Interleaving interleaving(weights, 7);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> counts(weights.size(), 0);
  for (std::int64_t i = 0; i < 20000; ++i) {
    const auto [source, ordinal] = interleaving(i);
    ASSERT_LT(source, weights.size());
    ASSERT_EQ(ordinal, counts[source]) << "at " << i;
    ++counts[source];
    for (std::size_t s = 0; s < weights.size(); ++s)
      ASSERT_NEAR(static_cast<double>(counts[s]), static_cast<double>(i + 1) * weights[s] / total,
                  4.0);
  }
}

TEST(Interleaving, StaysExactFarOut) {
  const Interleaving interleaving({1.0, 2.0}, 3);
  const std::int64_t far = std::int64_t{1} << 45;
  std::map<std::size_t, std::int64_t> next;
  for (std::int64_t i = far; i < far + 100; ++i) {
    const auto [source, ordinal] = interleaving(i);
    if (next.contains(source)) {
      EXPECT_EQ(ordinal, next[source]);
    }
    next[source] = ordinal + 1;
  }
  ASSERT_EQ(next.size(), 2U);
  EXPECT_EQ(next[0] + next[1], far + 100);
  EXPECT_NEAR(static_cast<double>(next[0]) / static_cast<double>(far), 1.0 / 3.0, 1e-9);
}

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
  static std::vector<std::int32_t> sample(const TokenData& data, std::int64_t index) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(data.context()), -7);
    std::vector<std::int32_t> targets(tokens);
    data.sample(index, tokens.data(), targets.data());
    for (std::size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(targets[i], tokens[i] + 1);
    return tokens;
  }
  TemporaryDirectory directory_;
};

TEST_F(TokenDataTest, EveryWindowOncePerPass) {
  const std::int64_t context = 16, windows = 37;
  DataConfig config;
  config.train = {file("a", 0, windows * context + 1, 1.0)};
  const TokenData data(config, context, 5);
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
  const TokenData data(config, 8, 11), again(config, 8, 11), other(config, 8, 12);
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
  const TokenData data(config, 8, 11);
  int from_b = 0;
  for (std::int64_t i = 0; i < 400; ++i) from_b += sample(data, i).front() >= 10000;
  EXPECT_NEAR(from_b, 300, 2);
  EXPECT_EQ(data.tokens(), 7001);
}

TEST_F(TokenDataTest, RefusesWhatIsTooShortOrBeyondTheVocabulary) {
  DataConfig config;
  config.train = {file("short", 0, 16, 1.0)};
  const std::string too_short = message_of<InputFileError>([&] { TokenData(config, 16, 0); });
  EXPECT_NE(too_short.find("short.bin: has 16 tokens"), std::string::npos) << too_short;
  EXPECT_NE(too_short.find("17"), std::string::npos) << too_short;
  EXPECT_NO_THROW(TokenData(config, 15, 0));

  config.train = {file("ids", 0, 300, 1.0)};
  const TokenData data(config, 16, 0);
  EXPECT_NO_THROW(data.check_vocabulary(300));
  const std::string beyond = message_of<InputFileError>([&] { data.check_vocabulary(256); });
  EXPECT_NE(beyond.find("256"), std::string::npos) << beyond;
  EXPECT_NE(beyond.find("ids.bin"), std::string::npos) << beyond;

  config.train = {{(directory_.path() / "absent").string(), 1.0}};
  EXPECT_THROW(TokenData(config, 16, 0), InputFileError);
  config.train.clear();
  EXPECT_THROW(TokenData(config, 16, 0), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
