// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_scores.h"

#include <gtest/gtest.h>

#include <cmath>

namespace polymoe {
namespace {

/// Two choices: "é" (1 character, 2 bytes) and "abcd" (4 of both).
TaskItem item(std::int64_t gold) {
  return {.context = "Q", .choices = {"é", "abcd"}, .gold = gold};
}

TEST(TaskScores, EveryNormalizationChoosesByItsOwnMeasure) {
  // -3 against -4: raw the first; per character -3 and -1, per byte -1.5 and -1, the second;
  // per token (1 and 1) the first; less the unconditional (-1 and -3.5), -2 and -0.5, the second.
  const TaskAnswer answer{.log_likelihoods = {-3.0, -4.0},
                          .without_question = {-1.0, -3.5},
                          .tokens = {1, 1},
                          .generated = ""};
  EXPECT_EQ(choice_of(item(0), answer, Normalization::none), 0U);
  EXPECT_EQ(choice_of(item(0), answer, Normalization::characters), 1U);
  EXPECT_EQ(choice_of(item(0), answer, Normalization::bytes), 1U);
  EXPECT_EQ(choice_of(item(0), answer, Normalization::tokens), 0U);
  EXPECT_EQ(choice_of(item(0), answer, Normalization::without_question), 1U);
  // Per byte and per character part where a character has several bytes.
  const TaskAnswer bytes{.log_likelihoods = {-2.4, -6.0}, .tokens = {1, 1}, .generated = ""};
  EXPECT_EQ(choice_of(item(0), bytes, Normalization::characters), 1U);
  EXPECT_EQ(choice_of(item(0), bytes, Normalization::bytes), 0U);
  // Equal ones: the first.
  const TaskAnswer equal{.log_likelihoods = {-2.0, -2.0}, .tokens = {1, 1}, .generated = ""};
  EXPECT_EQ(choice_of(item(0), equal, Normalization::none), 0U);
}

TEST(TaskScores, SharesHaveBinomialErrors) {
  const Task task{.name = "t", .path = {}, .items = {item(0), item(0), item(1), item(1)}};
  const TaskAnswer first{.log_likelihoods = {-1.0, -9.0}, .tokens = {1, 2}, .generated = ""};
  const TaskScores scores = score(task, {first, first, first, first});
  ASSERT_TRUE(scores.accuracy);
  EXPECT_DOUBLE_EQ(scores.accuracy->value, 0.5);
  EXPECT_DOUBLE_EQ(scores.accuracy->error, 0.25);
  EXPECT_FALSE(scores.less_unconditional);
  EXPECT_FALSE(scores.exact_match);
  EXPECT_EQ(scores.requests, 8);
  // The right ones: -1 of 2 bytes twice, -9 of 4 bytes twice.
  EXPECT_NEAR(*scores.bits_per_byte, 20.0 / std::log(2.0) / 12.0, 1e-12);
}

TEST(TaskScores, GeneratedAnswersMatchExactly) {
  const TaskItem question{.context = "Q", .choices = {}, .until = {}, .answers = {"four", " 4"}};
  EXPECT_TRUE(is_exact_match(question, " 4 \n"));
  EXPECT_TRUE(is_exact_match(question, "four"));
  EXPECT_FALSE(is_exact_match(question, "44"));
  EXPECT_FALSE(is_exact_match(question, ""));
}

TEST(TaskScores, MacroAverageIsOverTheTasksThatHaveAScore) {
  const TaskScores a{.name = "a", .items = 2, .accuracy = Share{0.5, 0.1}, .bits_per_byte = 1.0};
  const TaskScores b{.name = "b", .items = 8, .accuracy = Share{0.7, 0.1}, .bits_per_byte = 2.0};
  const TaskScores c{.name = "c", .items = 8, .exact_match = Share{0.2, 0.1}};
  const auto means = macro_average({a, b, c});
  ASSERT_EQ(means.size(), 3U);
  EXPECT_EQ(means[0].first, "acc");
  EXPECT_DOUBLE_EQ(means[0].second, 0.6);
  EXPECT_EQ(means[1].first, "exact_match");
  EXPECT_DOUBLE_EQ(means[1].second, 0.2);
  EXPECT_DOUBLE_EQ(means[2].second, 1.5);
  const Json json = scores_json({a, c});
  EXPECT_DOUBLE_EQ(json.at("tasks").items()[0].at("acc_stderr").as_number(), 0.1);
  EXPECT_EQ(json.at("tasks").items()[1].find("acc"), nullptr);
}

}  // namespace
}  // namespace polymoe
