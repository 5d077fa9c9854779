// SPDX-License-Identifier: Apache-2.0
#include "launch/config/values.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/error.h"

namespace polymoe {
namespace {

TEST(ParseCount, TakesWholeValuesInEverySpelling) {
  const std::vector<std::pair<const char*, std::int64_t>> cases = {
      {"0", 0},
      {"4096", 4096},
      {"1e6", 1000000},
      {"4k", 4000},
      {"4K", 4000},
      {"2M", 2000000},
      {"1.5B", 1500000000},
      {"10.49B", 10490000000},
      {"-3", -3},
      {"+3", 3},
      {"1.50e1", 15},
      {"2500e-2", 25},
      {"0.5k", 500},
      {"0.000", 0},
      {" 12 ", 12},
      {"1E3", 1000},
      {"007", 7},
      {"0e99", 0},
      {"9007199254740993", 9007199254740993},
      {"9223372036854775807", std::numeric_limits<std::int64_t>::max()}};
  for (const auto& [text, value] : cases) EXPECT_EQ(parse_count(text), value) << text;
}

TEST(ParseCount, RefusesEverythingElse) {
  for (const char* text : {"",
                           " ",
                           "x",
                           "1.5",
                           "0.5",
                           "1.2345k",
                           "1e-3",
                           "1.",
                           ".5k",
                           "4kk",
                           "4 k",
                           "4g",
                           "4m",
                           "4b",
                           "nan",
                           "inf",
                           "0x10",
                           "1,000",
                           "1e",
                           "--1",
                           "9223372036854775808",
                           "1e19",
                           "99999999999B",
                           "1e99999",
                           "12 13"})
    EXPECT_FALSE(parse_count(text).has_value()) << text;
}

TEST(ParseReal, TakesFiniteDecimalNumbers) {
  EXPECT_EQ(parse_real("0.1"), 0.1);
  EXPECT_EQ(parse_real("4e-4"), 4e-4);
  EXPECT_EQ(parse_real("+2"), 2.0);
  EXPECT_EQ(parse_real("-.5"), -0.5);
  for (const char* text : {"", "nan", "-nan", "inf", "-inf", "infinity", "1e999", "0x1p3", "1.0x",
                           "1 2", "e5", "-", "."})
    EXPECT_FALSE(parse_real(text).has_value()) << text;
}

TEST(Shortest, ReadsBackAsTheSameNumber) {
  EXPECT_EQ(shortest(0.1), "0.1");
  EXPECT_EQ(shortest(0.02), "0.02");
  for (const double value : {1.0 / 3.0, 4e-4, 1e-8, 1e300, 5e-324, 0.013975, 10000.0, -0.0})
    EXPECT_EQ(parse_real(shortest(value)), value);
}

TEST(WithSeparators, GroupsThousands) {
  EXPECT_EQ(with_separators(0), "0");
  EXPECT_EQ(with_separators(999), "999");
  EXPECT_EQ(with_separators(1000), "1,000");
  EXPECT_EQ(with_separators(-123456), "-123,456");
  EXPECT_EQ(with_separators(6919161856), "6,919,161,856");
}

TEST(IntervalTest, KnowsOpenAndClosedEnds) {
  const Interval half_open("(0, 1]"), unbounded("[2, inf)");
  EXPECT_FALSE(half_open.contains(0.0));
  EXPECT_TRUE(half_open.contains(1e-300));
  EXPECT_TRUE(half_open.contains(1.0));
  EXPECT_FALSE(half_open.contains(1.0000001));
  EXPECT_FALSE(half_open.contains(std::numeric_limits<double>::quiet_NaN()));
  EXPECT_TRUE(unbounded.contains(2.0));
  EXPECT_TRUE(unbounded.contains(1e300));
  EXPECT_THROW(Interval("0, 1"), InvalidArgument);
  EXPECT_THROW(Interval("[0; 1]"), InvalidArgument);
}

TEST(EditDistance, CountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("trian", "train"), 1U);
  EXPECT_EQ(edit_distance("topk", "top_k"), 1U);
}

TEST(Nearest, FindsSlipsAndKeysOfTheWrongSection) {
  const std::vector<std::string> keys = {"model.layers", "moe.top_k", "train.micro_batch"};
  EXPECT_EQ(nearest("moe.topk", keys), "moe.top_k");
  EXPECT_EQ(nearest("model.top_k", keys), "moe.top_k");
  EXPECT_EQ(nearest("optimizer.micro_batch", keys), "train.micro_batch");
  EXPECT_EQ(nearest("layers", keys), "model.layers");
  EXPECT_EQ(nearest("x", {}), "");
  EXPECT_EQ(nearest("conf", {"config", "ranks"}), "config");  // its end is missing
  EXPECT_EQ(nearest("steps", {"config", "ranks"}), "");       // nothing is near
  EXPECT_EQ(nearest("trian", {"train", "eval"}), "train");
}

}  // namespace
}  // namespace polymoe
