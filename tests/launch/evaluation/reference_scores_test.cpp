// SPDX-License-Identifier: Apache-2.0
// The scores of a model of transformers' are those that transformers finds itself: what
// tests/reference/score_tasks.py wrote.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <sstream>

#include "launch/evaluation/task_run.h"
#include "launch/huggingface/interchange.h"
#include "launch/inference/saved_model.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYMOE_FIXTURES);

class ReferenceScoresTest : public testing::Test {
 protected:
  ReferenceScoresTest() {
    checkpoint_ = import_huggingface(
                      {.from = fixtures / "tasks", .to = directory_.path() / "run", .ranks = 1})
                      .checkpoint;
  }
  std::vector<TaskAnswer> answers(const Task& task, int ranks, const PassLimits& limits) {
    std::vector<TaskAnswer> result;
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      const int rank = world->rank();
      const auto tokenizer = load_tokenizer(fixtures / "tokenizers" / "qwen2.json");
      SavedModel saved(checkpoint_, std::move(world), {.threads = 1});
      const AnsweringModel answering{.model = saved.model(),
                                     .mesh = saved.mesh(),
                                     .context = saved.context(),
                                     .dtype = saved.dtype(),
                                     .limits = limits};
      auto found = PreparedTask(task, *tokenizer, saved.config().model.context)
                       .answer(answering, {})
                       .value()
                       .items;
      if (rank == 0) result = std::move(found);
      saved.shutdown();
    });
    return result;
  }

  test::TemporaryDirectory directory_;
  std::filesystem::path checkpoint_;
};

TEST_F(ReferenceScoresTest, AreThoseOfTransformersUnderAnyLayout) {
  std::map<std::string, std::vector<Json>> expected;
  std::istringstream lines(test::read_bytes(fixtures / "tasks" / "scores.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const Json row = parse_json(line, "scores.jsonl");
    expected[row.at("task").as_string()].push_back(row);
  }
  ASSERT_EQ(expected.size(), 2U);
  int cut = 0;
  for (const auto& [name, rows] : expected) {
    const Task task = read_task(fixtures / "tasks" / (name + ".jsonl"));
    ASSERT_EQ(task.items.size(), rows.size()) << name;
    const std::vector<TaskAnswer> found = answers(task, 1, {.tokens = 400, .places = 400});
    for (std::size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(name + ", item " + std::to_string(i));
      const std::vector<Json>& values = rows[i].at("log_likelihoods").items();
      ASSERT_EQ(found[i].log_likelihoods.size(), values.size());
      for (std::size_t c = 0; c < values.size(); ++c)
        EXPECT_NEAR(found[i].log_likelihoods[c], values[c].as_number(),
                    1e-4 * std::abs(values[c].as_number()))
            << "choice " << c;
      EXPECT_EQ(static_cast<std::int64_t>(choice_of(task.items[i], found[i], Normalization::none)),
                rows[i].at("choice").as_integer());
      cut += found[i].cut ? 1 : 0;
    }
    // The same bits on any number of ranks that share the experts alike, the same scores on all.
    const std::vector<TaskAnswer> two = answers(task, 2, {.tokens = 400, .places = 400}),
                                  small = answers(task, 4, {.tokens = 48, .places = 48}),
                                  wide = answers(task, 2, {.tokens = 200, .places = 1600});
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t c = 0; c < found[i].log_likelihoods.size(); ++c) {
        const double value = found[i].log_likelihoods[c];
        EXPECT_NEAR(two[i].log_likelihoods[c], value, 1e-5 * std::abs(value));
        EXPECT_NEAR(small[i].log_likelihoods[c], value, 1e-5 * std::abs(value));
        EXPECT_NEAR(wide[i].log_likelihoods[c], value, 1e-5 * std::abs(value));
      }
  }
  EXPECT_GE(cut, 3);  // contexts longer than the window are among them
}

}  // namespace
}  // namespace polymoe
