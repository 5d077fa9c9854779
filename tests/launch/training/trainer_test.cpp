// SPDX-License-Identifier: Apache-2.0
#include "launch/training/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "launch/machine/exit_code.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::Layout;
using test::metrics_of;
using test::TemporaryDirectory;
using test::tiny_config;
using test::train;
using test::without_times;
using test::write_tokens;

double number(const Json& row, const char* key) { return row.at(key).as_number(); }

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    write_tokens(directory_.path() / "tokens", 4000, 64, 1);
    write_tokens(directory_.path() / "valid", 16 * 13 + 6, 64, 2);
  }

  Config config(const std::string& run) const {
    Config config = tiny_config(directory_.path());
    config.run.dir = path(run).string();
    return config;
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

  /// Losses and gradient norms of every step must agree to rounding.
  static void expect_same_course(const std::vector<Json>& actual,
                                 const std::vector<Json>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      for (const char* key : {"loss", "aux_loss", "z_loss", "grad_norm"}) {
        const double reference = number(expected[i], key);
        EXPECT_NEAR(number(actual[i], key), reference, 1e-5 * std::abs(reference))
            << key << " of step " << i + 1;
      }
  }

  TemporaryDirectory directory_;
};

TEST_F(TrainerTest, LossFallsAndEveryKeyIsReported) {
  Config settings = config("run");
  settings.train.steps = 60;
  settings.train.valid_every = 25;
  settings.data.valid = {{.path = path("valid").string(), .weight = 1.0}};
  EXPECT_EQ(train(settings, {.ranks = 2, .expert_parallel = 2}), RunEnd::finished);
  const auto rows = metrics_of(path("run"));
  ASSERT_EQ(rows.size(), 60U);
  EXPECT_NEAR(number(rows.front(), "loss"), std::log(64.0), 0.1);
  EXPECT_LT(number(rows.back(), "loss"), 2.5);

  std::vector<std::string> keys;
  for (const auto& member : rows[0].members()) keys.push_back(member.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"step", "tokens", "loss", "aux_loss", "z_loss", "lr",
                                            "grad_norm", "skipped_steps", "tokens_per_second",
                                            "mfu", "step_seconds", "checkpoint_seconds",
                                            "load_max_over_mean", "dead_experts", "routing_entropy",
                                            "dropped", "extra_rounds"}));
  EXPECT_EQ(rows[59].at("step").as_integer(), 60);
  EXPECT_EQ(rows[59].at("tokens").as_integer(), 60 * 8 * 16);
  EXPECT_GT(number(rows[5], "mfu"), 0.0);
  EXPECT_LT(number(rows[5], "mfu"), 1.0);
  EXPECT_DOUBLE_EQ(number(rows[0], "lr"), 0.0015);
  double seconds = 0.0;
  for (const auto& member : rows[5].at("step_seconds").members())
    seconds += member.value.as_number();
  const double step_seconds = 8 * 16 / number(rows[5], "tokens_per_second");
  EXPECT_NEAR(seconds, step_seconds, 0.02 * step_seconds);
  for (const char* key :
       {"load_max_over_mean", "dead_experts", "routing_entropy", "dropped", "extra_rounds"})
    EXPECT_EQ(rows[5].at(key).items().size(), 2U) << key;
  const double entropy = rows[5].at("routing_entropy").items()[0].as_number();
  EXPECT_GT(entropy, 0.0);
  EXPECT_LE(entropy, std::log(4.0) + 1e-12);

  for (std::size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(rows[i].find("valid_loss") != nullptr, i == 24 || i == 49 || i == 59) << i;
  EXPECT_LT(number(rows[59], "valid_loss"), number(rows[24], "valid_loss"));
  EXPECT_DOUBLE_EQ(number(rows[59], "valid_perplexity"), std::exp(number(rows[59], "valid_loss")));

  EXPECT_TRUE(std::filesystem::exists(path("run/checkpoints/step-00000060/manifest.json")));
  EXPECT_TRUE(std::filesystem::exists(path("run/environment.json")));
  EXPECT_FALSE(std::filesystem::is_empty(path("run/tensorboard")));
  const Config saved = read_config(path("run/config.ini").string(), {});
  EXPECT_EQ(saved.train.valid_every, 25);
}

TEST_F(TrainerTest, ReportsEachValidationFileScoresOnTasksAndTokensOfExpertsUnderAnyLayout) {
  test::write_bytes(path("easy.jsonl"), R"({"context":"ab","choices":["cd","x","yz"],"gold":0})"
                                        "\n"
                                        R"({"context":"abc","choices":["d","e"],"gold":1})"
                                        "\n");
  write_tokens(path("more"), 150, 64, 3);
  Config settings = config("one");
  settings.model.vocab = 300;
  settings.train.steps = 7;
  settings.train.valid_every = 4;
  settings.data.valid = {{.path = path("valid").string(), .weight = 1.0},
                         {.path = path("more").string(), .weight = 3.0}};
  settings.eval.tasks = {path("easy.jsonl").string()};
  settings.eval.every = 3;
  settings.eval.tokenizer = "bytes";
  settings.expert_report_every = 2;
  ASSERT_EQ(train(settings, {.ranks = 1}), RunEnd::finished);
  const auto rows = metrics_of(path("one"));
  const Json& last = rows.at(6);
  EXPECT_NEAR(number(last, "valid_loss"),
              0.25 * number(last, "valid_loss/valid") + 0.75 * number(last, "valid_loss/more"),
              1e-9);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].find("eval/easy/acc") != nullptr, i == 2 || i == 5 || i == 6) << i;
    EXPECT_EQ(rows[i].find("valid_loss/more") != nullptr, i == 3 || i == 6) << i;
  }
  EXPECT_GT(number(last, "eval/easy/bits_per_byte"), 0.0);
  const double share = number(last, "eval/easy/acc");
  EXPECT_NEAR(number(last, "eval/easy/acc_stderr"), std::sqrt(share * (1.0 - share) / 2.0), 1e-12);

  settings.run.dir = path("two").string();
  ASSERT_EQ(train(settings, {.ranks = 2, .expert_parallel = 2}), RunEnd::finished);
  const auto same = metrics_of(path("two"));
  for (const char* key : {"eval/easy/acc", "eval/easy/acc_per_char", "valid_loss/valid",
                          "valid_loss/more", "eval/easy/bits_per_byte"})
    EXPECT_NEAR(number(same.at(6), key), number(last, key), 1e-5 * number(last, key)) << key;

  const auto experts = test::json_lines(path("two") / "experts.jsonl");
  ASSERT_EQ(experts.size(), 3U);
  EXPECT_EQ(experts[1].at("step").as_integer(), 4);
  EXPECT_EQ(experts[1].at("layers").items().size(), 2U);
  std::int64_t slots = 0;
  for (const Json& count : experts[1].at("expert_tokens").items().at(1).items())
    slots += count.as_integer();
  EXPECT_EQ(slots, 8 * 16 * settings.model.moe.top_k);

  // A run that goes on has no step twice, in this file either.
  settings.train.steps = 9;
  settings.checkpoint.resume = "auto";
  ASSERT_EQ(train(settings, {.ranks = 1}), RunEnd::finished);
  EXPECT_EQ(test::json_lines(path("two") / "experts.jsonl").size(), 4U);
}

TEST_F(TrainerTest, RefusesTasksThatItCannotScoreBeforeTheFirstStep) {
  Config settings = config("refused");
  settings.eval.tasks = {path("missing.jsonl").string()};
  EXPECT_THROW(train(settings, {.ranks = 2}), InputFileError);
  test::write_bytes(path("a.jsonl"), R"({"context":"ab","choices":["cd"],"gold":0})");
  settings.eval.tasks = {path("a.jsonl").string()};
  EXPECT_NE(test::message_of<InvalidArgument>([&] {
              train(settings, {.ranks = 2});
            }).find("eval.tokenizer: must be given"),
            std::string::npos);
  settings.eval.tokenizer = "bytes";  // has more tokens than the model
  EXPECT_THROW(train(settings, {.ranks = 2}), InputFileError);
  EXPECT_FALSE(std::filesystem::exists(path("refused")));
}

TEST_F(TrainerTest, EveryLayoutTakesTheSameCourse) {
  ASSERT_EQ(train(config("reference"), {.ranks = 1}), RunEnd::finished);
  const auto reference = metrics_of(path("reference"));
  ASSERT_EQ(reference.size(), 20U);
  for (const Layout layout :
       {Layout{2, 1}, Layout{2, 2}, Layout{4, 1}, Layout{4, 2}, Layout{4, 4}}) {
    SCOPED_TRACE(testing::Message()
                 << layout.ranks << " ranks, expert parallelism " << layout.expert_parallel);
    const std::string run =
        "run-" + std::to_string(layout.ranks) + "-" + std::to_string(layout.expert_parallel);
    ASSERT_EQ(train(config(run), layout), RunEnd::finished);
    const auto rows = metrics_of(path(run));
    expect_same_course(rows, reference);
    for (std::size_t i = 0; i < rows.size(); ++i)
      EXPECT_EQ(rows[i].at("load_max_over_mean").dump(),
                reference[i].at("load_max_over_mean").dump())
          << "step " << i + 1;
  }
}

TEST_F(TrainerTest, SharesThatAreNotEvenTakeTheSameCourse) {
  ASSERT_EQ(train(config("reference"), {.ranks = 1}), RunEnd::finished);
  const auto reference = metrics_of(path("reference"));
  Config settings = config("three");
  settings.train.micro_batch = 0;  // 8 sequences: 3, 3 and 2
  ASSERT_EQ(train(settings, {.ranks = 3}), RunEnd::finished);
  expect_same_course(metrics_of(path("three")), reference);
  settings = config("passes");
  settings.train.micro_batch = 0;
  settings.train.micro_batch_limit = 1;  // three passes, in which one share is empty
  ASSERT_EQ(train(settings, {.ranks = 3}), RunEnd::finished);
  expect_same_course(metrics_of(path("passes")), reference);
  settings.train.micro_batch_limit = 2;
  settings.run.dir = path("four").string();
  settings.train.global_batch = 7;
  EXPECT_EQ(train(settings, {.ranks = 4, .expert_parallel = 4}), RunEnd::finished);
}

TEST_F(TrainerTest, TheLossIsTheMeanOverTheTokensThatCountUnderAnyLayout) {
  // Samples that differ in how many of their tokens count, some have none.
  std::string mask;
  for (int i = 0; i < 4000; ++i) mask += static_cast<char>(i / 16 % 3 != 0 && i % 4 != 1);
  const auto run = [&](const std::string& name, const Layout& layout, std::int64_t micro_batch) {
    Config settings = config(name);
    settings.train.steps = 4;
    settings.train.micro_batch = micro_batch;
    EXPECT_EQ(train(settings, layout), RunEnd::finished);
    return metrics_of(path(name));
  };
  const auto unmasked = run("unmasked", {.ranks = 1}, 8);
  test::write_bytes(path("tokens.mask.bin"), mask);
  const auto expected = run("1x8", {.ranks = 1}, 8);
  // Near the logarithm of the vocabulary, as the untrained model knows nothing.
  EXPECT_NEAR(number(expected[0], "loss"), std::log(64.0), 0.1);
  EXPECT_GT(std::abs(number(expected[3], "grad_norm") - number(unmasked[3], "grad_norm")), 1e-3);
  expect_same_course(run("8x1", {.ranks = 1}, 1), expected);
  expect_same_course(run("ranks", {.ranks = 4, .expert_parallel = 2}, 2), expected);
  expect_same_course(run("both", {.ranks = 2}, 2), expected);
  test::write_bytes(path("tokens.mask.bin"), mask.substr(1));
  EXPECT_THROW(train(config("short"), {.ranks = 1}), InputFileError);
}

TEST_F(TrainerTest, GlobalBalanceTakesTheSameCourseAtTheSameMicroStep) {
  const auto run = [&](const std::string& name, Layout layout) {
    Config settings = config(name);
    settings.model.moe.balance_scope = BalanceScope::global;
    settings.train.micro_batch = 4 / layout.ranks;
    EXPECT_EQ(train(settings, layout), RunEnd::finished);
    return metrics_of(path(name));
  };
  const auto reference = run("reference", {.ranks = 1});
  expect_same_course(run("two", {.ranks = 2, .expert_parallel = 2}), reference);
  expect_same_course(run("four", {.ranks = 4, .expert_parallel = 2}), reference);
}

TEST_F(TrainerTest, TwoRunsOfOneLayoutAreIdentical) {
  const auto run = [&](const std::string& name) {
    EXPECT_EQ(train(config(name), {.ranks = 4, .expert_parallel = 2}), RunEnd::finished);
    std::string rows;
    for (const Json& row : metrics_of(path(name))) rows += without_times(row) + "\n";
    return rows;
  };
  EXPECT_EQ(run("first"), run("second"));
  EXPECT_EQ(test::checkpoint_contents(path("first/checkpoints/step-00000020")),
            test::checkpoint_contents(path("second/checkpoints/step-00000020")));
}

TEST_F(TrainerTest, DenseModelTrains) {
  Config settings = config("dense");
  settings.model.moe = {};
  ASSERT_EQ(train(settings, {.ranks = 2}), RunEnd::finished);
  const auto rows = metrics_of(path("dense"));
  EXPECT_LT(number(rows.back(), "loss"), number(rows.front(), "loss"));
  EXPECT_EQ(number(rows.back(), "aux_loss"), 0.0);
  EXPECT_EQ(rows.back().find("load_max_over_mean"), nullptr);
}

TEST_F(TrainerTest, NonFiniteStepIsNotApplied) {
  Config settings = config("run");
  settings.train.max_skipped = 1;
  settings.optimizer.lr = 1e30;
  settings.optimizer.min_lr = 1e30;
  settings.checkpoint.every = 1;
  settings.checkpoint.keep = 0;
  const std::string message = test::message_of<NotFiniteError>(
      [&] { train(settings, {.ranks = 2, .expert_parallel = 2}); });
  const auto rows = metrics_of(path("run"));
  ASSERT_FALSE(rows.empty());
  EXPECT_NE(message.find("step " + std::to_string(rows.size() + 1) + " is not applied"),
            std::string::npos)
      << message;
  std::size_t checkpoints = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path("run/checkpoints")))
    checkpoints += entry.is_directory() ? 1 : 0;
  EXPECT_EQ(checkpoints, rows.size());
}

TEST_F(TrainerTest, OldCheckpointsArePruned) {
  Config settings = config("run");
  settings.train.steps = 6;
  settings.checkpoint.every = 2;
  settings.checkpoint.keep = 2;
  ASSERT_EQ(train(settings, {.ranks = 2}), RunEnd::finished);
  EXPECT_FALSE(std::filesystem::exists(path("run/checkpoints/step-00000002")));
  EXPECT_TRUE(std::filesystem::exists(path("run/checkpoints/step-00000004")));
  EXPECT_TRUE(std::filesystem::exists(path("run/checkpoints/step-00000006")));
}

TEST_F(TrainerTest, WhatCannotBeTrainedIsRefusedAtStart) {
  Config settings = config("run");
  settings.train.global_batch = 6;
  EXPECT_NE(test::message_of<InvalidArgument>([&] {
              train(settings, {.ranks = 2});
            }).find("train.global_batch = 6"),
            std::string::npos);

  settings = config("run");
  settings.model.vocab = 50;
  const std::string message =
      test::message_of<InputFileError>([&] { train(settings, {.ranks = 2}); });
  EXPECT_NE(message.find("tokens.bin"), std::string::npos) << message;

  test::write_bytes(path("file"), "");
  settings = config("file/run");
  EXPECT_THROW(train(settings, {.ranks = 2}), OutputFileError);

  settings = config("run");
  const RunDirectory held(path("run"));
  EXPECT_NE(test::message_of<InvalidArgument>([&] {
              train(settings, {.ranks = 2});
            }).find("in use by another run (process " + std::to_string(getpid())),
            std::string::npos);
}

}  // namespace
}  // namespace polymoe
