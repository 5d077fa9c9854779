// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_run.h"

#include <gtest/gtest.h>

#include <cmath>

#include "launch/step/memory_plan.h"
#include "runtime/error.h"
#include "tests/launch/random_model.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

AnsweringModel answering(test::RandomModel& random, const PassLimits& limits) {
  return {.model = random.model,
          .mesh = random.mesh,
          .context = random.context,
          .dtype = DType::f32,
          .limits = limits};
}

constexpr PassLimits small_passes = {.tokens = 64, .places = 64};

class TaskRunTest : public testing::Test {
 protected:
  TaskRunTest() : config_(test::tiny_config(directory_.path()).model) {
    config_.init_std = 0.3;  // likelihoods that differ from token to token
    config_.vocab = tokenizer_->vocab();
  }
  std::vector<TaskAnswer> run(const Task& task, int ranks, int expert_parallel,
                              const PassLimits& limits = small_passes) {
    std::vector<std::vector<TaskAnswer>> answers(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      const auto rank = static_cast<std::size_t>(world->rank());
      test::RandomModel random(config_, std::move(world), expert_parallel);
      answers[rank] = PreparedTask(task, *tokenizer_, config_.context)
                          .answer(answering(random, limits), {})
                          .value()
                          .items;
      random.mesh.shutdown();
    });
    for (const auto& other : answers)
      for (std::size_t i = 0; i < other.size(); ++i) {
        EXPECT_EQ(other[i].log_likelihoods, answers[0][i].log_likelihoods);
        EXPECT_EQ(other[i].generated, answers[0][i].generated);
      }
    return answers[0];
  }
  /// log p of `text` after `context`, token by token from the logits of generation.
  double expected(const std::string& context, const std::string& text) {
    test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
    std::vector<std::int32_t> ids, next;
    tokenizer_->encode(context, ids);
    if (ids.empty()) ids.push_back(tokenizer_->end_of_document());
    tokenizer_->encode(text, next);
    const auto window = static_cast<std::size_t>(config_.context);
    const std::size_t all = ids.size() + next.size() - 1;
    if (all > window)
      ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(all - window));
    DecodingCache cache(config_, config_.context, DType::f32, Device::cpu());
    double sum = 0.0;
    for (const std::int32_t id : next) {
      const Arena::Scope scope(random.context.arena);
      const Tensor tokens(ids.data(), {static_cast<std::int64_t>(ids.size())}, DType::i32,
                          Device::cpu());
      const Tensor logits = random.model.next_token_logits(tokens, cache, random.context);
      const float* values = logits.data<float>();
      double total = 0.0;
      for (std::int64_t i = 0; i < config_.vocab; ++i) total += std::exp(double{values[i]});
      sum += values[id] - std::log(total);
      ids.assign(1, id);
    }
    return sum;
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("bytes");
  ModelConfig config_;
};

TEST_F(TaskRunTest, LikelihoodsAreThoseOfGenerationUnderAnyLayout) {
  Task task{.name = "t", .path = "t.jsonl"};
  task.items.push_back({.context = "abc", .choices = {" d", " efgh"}, .line = 1});
  task.items.push_back({.context = "", .choices = {"x"}, .line = 2});
  task.items.push_back({.context = "q", .choices = {" r", "s"}, .contexts_without = {"A", "A"}});
  task.items.push_back({.context = "a context that is longer than the window", .choices = {"!!"}});
  ASSERT_EQ(config_.context, 16);
  for (const int ranks : {1, 2, 4}) {
    const std::vector<TaskAnswer> answers = run(task, ranks, ranks > 2 ? 2 : 1);
    ASSERT_EQ(answers.size(), task.items.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const TaskItem& item = task.items[i];
      EXPECT_EQ(answers[i].cut, i == 3);
      for (std::size_t c = 0; c < item.choices.size(); ++c) {
        const double wanted = expected(item.context, item.choices[c]);
        EXPECT_NEAR(answers[i].log_likelihoods[c], wanted, 1e-5 * std::abs(wanted))
            << ranks << " ranks, item " << i << ", choice " << c;
        EXPECT_EQ(answers[i].tokens[c], static_cast<std::int64_t>(item.choices[c].size()));
      }
    }
    const double without = expected("A", "s");
    EXPECT_NEAR(answers[2].without_question[1], without, 1e-5 * std::abs(without));
  }
}

TEST_F(TaskRunTest, WhatRequestsShareIsComputedOnceAndChangesNothing) {
  config_.context = 128;
  const std::string examples =
      "Examples that stand before every question of a task, as they often do. ";
  ASSERT_GT(examples.size(), 64U);
  Task task{.name = "t", .path = "t.jsonl"};
  std::int64_t rows = static_cast<std::int64_t>(examples.size());
  for (const std::string question : {"Why?", "Did he?", "A", "B is a longer one"}) {
    task.items.push_back({.context = examples + question, .choices = {" yes", " no", " no"}});
    rows += static_cast<std::int64_t>(question.size()) + 3 + 2 - 1;  // " ye", " n", without a blank
  }
  const std::vector<TaskAnswer> alone = run(task, 1, 1, {.tokens = 128, .places = 128});
  for (const int ranks : {1, 2}) {
    const std::vector<TaskAnswer> together =
        run(task, ranks, ranks, {.tokens = 1024, .places = 4096});
    for (std::size_t i = 0; i < alone.size(); ++i)
      for (std::size_t c = 0; c < 3; ++c)
        EXPECT_NEAR(together[i].log_likelihoods[c], alone[i].log_likelihoods[c],
                    1e-5 * std::abs(alone[i].log_likelihoods[c]));
  }
  test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
  const auto answers = PreparedTask(task, *tokenizer_, config_.context)
                           .answer(answering(random, {.tokens = 1024, .places = 4096}), {});
  EXPECT_EQ(answers->work.computed_tokens, rows);
  EXPECT_EQ(answers->work.waiting_seconds, 0.0);     // for no GPU
  EXPECT_EQ(answers->work.first_pass_tokens, rows);  // all of them in one
}

/// A GPU's arena is allocated before the first pass.
TEST_F(TaskRunTest, PassesFitTheMemoryThatIsPlannedForThem) {
  config_.context = 128;
  Task task{.name = "t", .path = "t.jsonl"};
  const std::string examples(90, 'e');
  for (int i = 0; i < 300; ++i)
    task.items.push_back({.context = examples + std::to_string(i), .choices = {" yes", " no"}});
  for (int i = 0; i < 40; ++i)
    task.items.push_back(
        {.context = std::string(100, static_cast<char>('A' + i)), .choices = {"!"}});
  const PassLimits limits{.tokens = 512, .places = 8 * 512};
  test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
  Config config;
  config.model = config_;
  config.train.precision = Precision::f32;
  const InferenceMemory planned =
      plan_inference(config, random.mesh, DeviceType::cpu, {.limits = limits});
  random.context.arena.reset_high_water();
  PreparedTask(task, *tokenizer_, config_.context).answer(answering(random, limits), {});
  EXPECT_GT(random.context.arena.high_water(), planned.activations / 4);
  EXPECT_LE(random.context.arena.high_water(), planned.activations);

  // Answers that are generated together too.
  Task free{.name = "f", .path = "f.jsonl", .generates = true};
  for (int i = 0; i < 40; ++i)
    free.items.push_back({.context = std::string(static_cast<std::size_t>(3 * i + 1), 'e'),
                          .choices = {},
                          .max_tokens = 4});
  const InferenceMemory alone = plan_inference(config, random.mesh, DeviceType::cpu,
                                               {.limits = limits, .batch = usual_batch});
  random.context.arena.reset_high_water();
  PreparedTask(free, *tokenizer_, config_.context).answer(answering(random, limits), {});
  EXPECT_GT(random.context.arena.high_water(), alone.activations / 8);
  EXPECT_LE(random.context.arena.high_water(), alone.activations);
}

TEST_F(TaskRunTest, WhatATokenizerPutsBeforeATextStandsBeforeContexts) {
  tokenizer_ = load_tokenizer(POLYMOE_FIXTURES "/tokenizers/llama3.json");
  config_.vocab = tokenizer_->vocab();
  const std::vector<std::int32_t> mark = tokenizer_->before_text();
  ASSERT_EQ(mark.size(), 1U);
  Task task{.name = "t", .path = "t.jsonl"};
  task.items.push_back({.context = "To be,", .choices = {" or not"}, .line = 1});
  task.items.push_back({.context = "", .choices = {"not"}, .line = 2});
  const std::vector<TaskAnswer> answers = run(task, 1, 1);
  // The mark is a special token, which a text may name.
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const TaskItem& item = task.items[i];
    const double wanted = expected("<|endoftext|>" + item.context, item.choices[0]);
    EXPECT_NEAR(answers[i].log_likelihoods[0], wanted, 1e-5 * std::abs(wanted)) << "item " << i;
  }
}

TEST_F(TaskRunTest, AChoiceThatAddsNoTokensIsRefusedBeforeAnyIsAsked) {
  // A token that takes the blanks behind it.
  tokenizer_ = load_tokenizer(POLYMOE_FIXTURES "/tokenizers/llama3.json");
  Task task{.name = "t", .path = "t.jsonl"};
  task.items.push_back({.context = "To be", .choices = {" or not"}, .line = 1});
  task.items.push_back({.context = "Number \u2167", .choices = {" is", " "}, .line = 2});
  const std::string message =
      test::message_of<InputFileError>([&] { PreparedTask(task, *tokenizer_, 16); });
  EXPECT_EQ(message.find("t.jsonl, line 2: choice 1 (from 0) has no tokens of its own after its "
                         "context: "),
            0U)
      << message;
  EXPECT_NE(message.find("a blank at the beginning of the choice"), std::string::npos) << message;
}

TEST_F(TaskRunTest, BlanksAtTheEndOfAContextGoToTheContinuation) {
  Task task{.name = "t", .path = "t.jsonl"};
  task.items.push_back({.context = "abc ", .choices = {"d"}});
  const TaskAnswer answer = run(task, 1, 1)[0];
  EXPECT_EQ(answer.tokens[0], 2);
  const double wanted = expected("abc", " d");
  EXPECT_NEAR(answer.log_likelihoods[0], wanted, 1e-5 * std::abs(wanted));
}

TEST_F(TaskRunTest, PredictsWhatIsLongerThanTheWindowInParts) {
  Task task{.name = "t", .path = "t.jsonl"};
  const std::string text = "abcdefghijklmnopq";
  task.items.push_back({.context = "X", .choices = {text}, .line = 7});
  const TaskAnswer answer = run(task, 1, 1)[0];
  EXPECT_TRUE(answer.cut);
  EXPECT_EQ(answer.tokens[0], 17);
  const double wanted = expected("X", text.substr(0, 8)) +
                        expected("X" + text.substr(0, 8), text.substr(8, 8)) +
                        expected("X" + text.substr(0, 16), text.substr(16));
  EXPECT_NEAR(answer.log_likelihoods[0], wanted, 1e-5 * std::abs(wanted));
}

TEST_F(TaskRunTest, GeneratesUntilAnEndAlikeOnAllRanks) {
  Task task{.name = "t", .path = "t.jsonl", .generates = true};
  task.items.push_back({.context = "ab", .choices = {}, .max_tokens = 6});
  const std::string free = run(task, 1, 1)[0].generated;
  EXPECT_EQ(run(task, 2, 2)[0].generated, free);
  // What is generated ends before the first of the ends.
  test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
  std::vector<std::int32_t> bytes;
  tokenizer_->encode(free, bytes);
  ASSERT_GT(bytes.size(), 1U);
  task.items[0].until = {free.substr(1)};
  EXPECT_EQ(run(task, 1, 1)[0].generated, free.substr(0, free.find(free.substr(1))));
  task.items[0].context = "a context that is longer than the window";
  EXPECT_TRUE(run(task, 1, 1)[0].cut);
}

TEST_F(TaskRunTest, ContextsThatFitTheWindowAreKeptWholeHoweverLongAnAnswerMayBe) {
  const auto answer = [&](const std::string& context, std::int64_t max_tokens) {
    Task task{.name = "t", .path = "t.jsonl", .generates = true};
    task.items.push_back({.context = context, .choices = {}, .max_tokens = max_tokens});
    return run(task, 1, 1)[0];
  };
  ASSERT_EQ(config_.context, 16);
  const std::string full = "sixteen letters.";
  for (std::size_t size = 1; size <= full.size(); ++size) {
    const std::string context = full.substr(0, size);
    const auto room = static_cast<std::int64_t>(17 - size);
    const TaskAnswer exact = answer(context, room);
    EXPECT_FALSE(exact.ended_by_window);
    // The same tokens follow: the whole context stands before them.
    for (const std::int64_t more : {room + 1, std::int64_t{16}, std::int64_t{1000}}) {
      const TaskAnswer longer = answer(context, more);
      EXPECT_EQ(longer.generated, exact.generated) << context << ", max_tokens " << more;
      EXPECT_FALSE(longer.cut);
      EXPECT_EQ(longer.ended_by_window, more > room && longer.generated.size() > 0);
    }
  }
  // A longer one loses what max_tokens need, and keeps half of the window at least.
  const std::string longer = "more than " + full;
  const auto last = [&](std::size_t tokens) { return longer.substr(longer.size() - tokens); };
  EXPECT_EQ(answer(longer, 1).generated, answer(full, 1).generated);
  EXPECT_EQ(answer(longer, 4).generated, answer(last(13), 4).generated);
  EXPECT_EQ(answer(longer, 64).generated, answer(last(8), 9).generated);
  EXPECT_FALSE(answer(longer, 4).ended_by_window);
  EXPECT_TRUE(answer(longer, 64).cut);
}

TEST_F(TaskRunTest, AnswersInABatchAreThoseAlone) {
  Task task{.name = "t", .path = "t.jsonl", .generates = true};
  // Lengths from a token to the window's end, and beyond it.
  for (const std::string context : {"a", "of six", "nine long", "a context of 15", "q", "",
                                    "a context that is longer than the window"})
    task.items.push_back({.context = context, .choices = {}, .max_tokens = 7});
  task.items[3].max_tokens = 64;
  std::vector<std::string> alone;
  for (const TaskItem& item : task.items) {
    Task one = task;
    one.items = {item};
    alone.push_back(run(one, 1, 1)[0].generated);
  }
  // Some end early, each in its own way.
  for (const std::size_t i : {std::size_t{1}, std::size_t{4}}) {
    ASSERT_GT(alone[i].size(), 2U);
    task.items[i].until = {"no such text", alone[i].substr(i == 1 ? 1 : 2)};
    alone[i].resize(alone[i].find(task.items[i].until[1]));
  }
  for (const auto& [ranks, expert_parallel] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 2}}) {
    const std::vector<TaskAnswer> together = run(task, ranks, expert_parallel);
    for (std::size_t i = 0; i < alone.size(); ++i)
      EXPECT_EQ(together[i].generated, alone[i]) << ranks << " ranks, item " << i;
    EXPECT_EQ(together.back().cut, true);
  }
}

}  // namespace
}  // namespace polymoe
