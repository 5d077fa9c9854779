// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>

#include "tests/support/temporary_directory.h"

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
  EXPECT_NEAR(scores.bits_per_byte->value, 20.0 / std::log(2.0) / 12.0, 1e-12);
}

/// What tests/reference/task_errors.py found by numpy, from the same log-likelihoods.
TEST(TaskScores, ScoresAndErrorsAreThoseOfNumpy) {
  const std::filesystem::path folder = POLYMOE_FIXTURES "/tasks";
  std::map<std::string, std::vector<TaskAnswer>> said;
  std::istringstream lines(test::read_bytes(folder / "scores.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json row = parse_json(line, "scores.jsonl");
    TaskAnswer answer;
    for (const Json& value : row.at("log_likelihoods").items())
      answer.log_likelihoods.push_back(value.as_number());
    answer.tokens.assign(answer.log_likelihoods.size(), 1);
    said[row.at("task").as_string()].push_back(answer);
  }
  std::vector<TaskScores> scores;
  for (const char* name : {"quiz", "lines"})
    scores.push_back(score(read_task(folder / (std::string(name) + ".jsonl")), said[name]));
  const Json mine = scores_json(scores);
  const Json expected = parse_json(test::read_bytes(folder / "errors.json"), "errors.json");
  int compared = 0;
  const auto compare = [&](const Json& found, const Json& wanted) {
    for (const Json::Member& member : wanted.members()) {
      const std::vector<Json>& pair = member.value.items();
      EXPECT_NEAR(found.at(member.key).as_number(), pair[0].as_number(), 1e-12) << member.key;
      EXPECT_NEAR(found.at(member.key + "_stderr").as_number(), pair[1].as_number(), 1e-12)
          << member.key;
      ++compared;
    }
  };
  compare(mine.at("tasks").items()[0], expected.at("quiz"));
  compare(mine.at("tasks").items()[1], expected.at("lines"));
  compare(mine.at("macro"), expected.at("macro"));
  EXPECT_EQ(compared, 12);
}

TEST(TaskScores, GeneratedAnswersMatchExactly) {
  const TaskItem question{.context = "Q", .choices = {}, .until = {}, .answers = {"four", " 4"}};
  EXPECT_TRUE(is_exact_match(question, " 4 \n"));
  EXPECT_TRUE(is_exact_match(question, "four"));
  EXPECT_FALSE(is_exact_match(question, "44"));
  EXPECT_FALSE(is_exact_match(question, ""));
}

TEST(TaskScores, WorkTellsTheFirstPassApart) {
  const ScoringWork several{.preparing_seconds = 0.25,
                            .model_seconds = 3.0,
                            .first_pass_seconds = 1.0,
                            .waiting_seconds = 1.25,
                            .tokens = 5000,
                            .computed_tokens = 3500,
                            .first_pass_tokens = 500};
  ScoringWork one = several;
  one.first_pass_tokens = one.computed_tokens;
  const std::vector<TaskScores> scores = {{.name = "several", .work = several},
                                          {.name = "one", .work = one}};
  const Json json = scores_json(scores);
  const Json& work = json.at("tasks").items()[0].at("work");
  EXPECT_EQ(work.at("first_pass_seconds").as_number(), 1.0);
  EXPECT_EQ(work.at("waiting_seconds").as_number(), 1.25);
  EXPECT_EQ(work.at("first_pass_tokens").as_integer(), 500);
  EXPECT_EQ(work.at("steady_tokens_per_second").as_number(), 1500.0);
  EXPECT_NEAR(work.at("computed_tokens_per_second").as_number(), 3500.0 / 3.0, 1e-9);
  EXPECT_EQ(json.at("tasks").items()[1].at("work").find("steady_tokens_per_second"), nullptr);
  const std::string table = work_table(scores, 2.5);
  EXPECT_NE(table.find("model loaded in 2.50 s\n"), std::string::npos) << table;
  EXPECT_NE(table.find("    3.00      1.25  "), std::string::npos) << table;
  EXPECT_NE(table.find("  1,500       0.25\n"), std::string::npos) << table;
  EXPECT_NE(table.find("      -       0.25\n"), std::string::npos) << table;
}

TEST(TaskScores, MacroAverageIsOverTheTasksThatHaveAScore) {
  const TaskScores a{
      .name = "a", .items = 2, .accuracy = Share{0.5, 0.1}, .bits_per_byte = Share{1.0, 0.3}};
  const TaskScores b{
      .name = "b", .items = 8, .accuracy = Share{0.7, 0.1}, .bits_per_byte = Share{2.0, 0.4}};
  const TaskScores c{.name = "c", .items = 8, .exact_match = Share{0.2, 0.1}};
  const auto means = macro_average({a, b, c});
  ASSERT_EQ(means.size(), 3U);
  EXPECT_EQ(means[0].first, "acc");
  EXPECT_DOUBLE_EQ(means[0].second.value, 0.6);
  EXPECT_DOUBLE_EQ(means[0].second.error, std::sqrt(0.02) / 2.0);
  EXPECT_EQ(means[1].first, "exact_match");
  EXPECT_DOUBLE_EQ(means[1].second.value, 0.2);
  EXPECT_DOUBLE_EQ(means[1].second.error, 0.1);
  EXPECT_DOUBLE_EQ(means[2].second.value, 1.5);
  EXPECT_DOUBLE_EQ(means[2].second.error, 0.25);
  const Json json = scores_json({a, c});
  EXPECT_DOUBLE_EQ(json.at("tasks").items()[0].at("acc_stderr").as_number(), 0.1);
  EXPECT_EQ(json.at("tasks").items()[1].find("acc"), nullptr);
  EXPECT_DOUBLE_EQ(json.at("macro").at("bits_per_byte_stderr").as_number(), 0.3);
  EXPECT_DOUBLE_EQ(json.at("macro").at("exact_match_stderr").as_number(), 0.1);
}

}  // namespace
}  // namespace polymoe
