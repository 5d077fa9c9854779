// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_evaluation.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "launch/training/trainer.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::Layout;

/// Runs of 6 steps that are validated and scored after the 3rd and the 6th, the last one.
class RunEvaluationTest : public testing::TestWithParam<Layout> {
 protected:
  RunEvaluationTest() {
    test::write_tokens(directory_.path() / "tokens", 4000, 64, 1);
    test::write_tokens(directory_.path() / "valid", 230, 64, 2);
    std::string items;
    for (const char letter : std::string("abcdefghijklmnopqrstuvwxyz"))
      items += std::string(R"({"context":"ab)") + letter +
               R"(","choices":["cd","x","yz"],"gold":0})" + "\n";
    test::write_bytes(path("easy.jsonl"), items);
    test::write_bytes(path("more.jsonl"), items);
  }

  fs::path path(const std::string& name) const { return directory_.path() / name; }
  Config config(const std::string& run) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    config.model.vocab = 300;
    config.train.steps = 6;
    config.train.valid_every = 3;
    config.data.valid = {{.path = path("valid").string(), .weight = 1.0}};
    config.eval.tasks = {path("easy.jsonl").string()};
    config.eval.every = 3;
    config.eval.tokenizer = "bytes";
    config.checkpoint.every = 3;
    return config;
  }
  RunEnd train(const Config& config,
               const std::function<void(int rank, TrainerOptions&)>& change = {}) const {
    return test::train(config, GetParam(), change);
  }
  std::vector<std::string> rows(const std::string& run) const {
    std::vector<std::string> lines;
    for (const Json& row : test::metrics_of(path(run))) lines.push_back(test::without_times(row));
    return lines;
  }
  bool saved(const std::string& run, int step) const {
    return fs::exists(path(run) / "checkpoints" / ("step-0000000" + std::to_string(step)) /
                      "manifest.json");
  }

  test::TemporaryDirectory directory_;
};

INSTANTIATE_TEST_SUITE_P(Ranks, RunEvaluationTest,
                         testing::Values(Layout{.ranks = 1},
                                         Layout{.ranks = 2, .expert_parallel = 2}),
                         [](const auto& layout) { return std::to_string(layout.param.ranks); });

/// A rank that is killed says nothing more: here all are, by an exception where they turn to it.
TEST_P(RunEvaluationTest, WhatAKillCutsOffIsMadeByTheNextStart) {
  ASSERT_EQ(train(config("straight")), RunEnd::finished);
  for (const std::string work : {"validating", "scoring"}) {
    for (const int step : {3, 6}) {
      const std::string run = work + std::to_string(step);
      const auto kill = [&](int rank, TrainerOptions& options) {
        options.work_begins = [&, rank, under_way = 0](std::string_view begun) mutable {
          if (begun != work || (under_way += 3) != step) return;
          if (rank == 0) {
            const auto known = test::metrics_of(path(run));
            EXPECT_EQ(known.size(), static_cast<std::size_t>(step)) << run;
            EXPECT_EQ(known.back().find("eval/easy/acc"), nullptr) << run;
            if (step == 6) {
              EXPECT_TRUE(saved(run, step)) << run;
            }
          }
          throw std::runtime_error("killed");
        };
      };
      EXPECT_THROW(train(config(run), kill), std::runtime_error);
      // That of the 3rd step is written meanwhile, and lost with a peer.
      EXPECT_TRUE((step == 3 && GetParam().ranks > 1) || saved(run, step)) << run;
      ASSERT_EQ(train(config(run)), RunEnd::finished);
      EXPECT_EQ(rows(run), rows("straight")) << run;
    }
  }
}

TEST_P(RunEvaluationTest, WhatIsLeftOfTheLastStepForAStopKeepsTheRunFromBeingFinished) {
  ASSERT_EQ(train(config("straight")), RunEnd::finished);
  for (const std::string work : {"validating", "scoring"}) {
    bool asked = false;
    const auto stop = [&](int rank, TrainerOptions& options) {
      if (rank + 1 != GetParam().ranks) return;  // by one of them
      options.work_begins = [&, under_way = 0](std::string_view begun) mutable {
        if (begun == work && (under_way += 3) == 6) asked = true;
      };
      options.stop_requested = [&] { return asked ? StopRequest::terminate : StopRequest::none; };
    };
    ASSERT_EQ(train(config(work), stop), RunEnd::preempted);
    ASSERT_EQ(rows(work).size(), 6U);
    EXPECT_NE(rows(work), rows("straight"));
    // One that is stopped at once has it before itself still.
    EXPECT_EQ(train(config(work),
                    [](int, TrainerOptions& options) {
                      options.stop_requested = [] { return StopRequest::preempt; };
                    }),
              RunEnd::preempted);
    ASSERT_EQ(train(config(work)), RunEnd::finished);
    EXPECT_EQ(rows(work), rows("straight"));
    // And now there is nothing to do: no stop can leave anything.
    EXPECT_EQ(train(config(work),
                    [](int, TrainerOptions& options) {
                      options.stop_requested = [] { return StopRequest::preempt; };
                    }),
              RunEnd::finished);
    EXPECT_EQ(rows(work), rows("straight"));
  }
}

TEST_P(RunEvaluationTest, TasksThatACompleteRunGetsAreScored) {
  ASSERT_EQ(train(config("run")), RunEnd::finished);
  const auto before = test::metrics_of(path("run"));
  Config settings = config("run");
  settings.eval.tasks.push_back(path("more.jsonl").string());
  ASSERT_EQ(train(settings), RunEnd::finished);
  const auto after = test::metrics_of(path("run"));
  ASSERT_EQ(after.size(), before.size());
  EXPECT_EQ(after.back().at("loss").as_number(), before.back().at("loss").as_number());
  EXPECT_EQ(after.back().at("eval/easy/acc").as_number(),
            before.back().at("eval/easy/acc").as_number());
  EXPECT_EQ(after.back().at("eval/more/acc").as_number(),
            after.back().at("eval/easy/acc").as_number());
  EXPECT_NE(after.back().find("eval/macro/acc"), nullptr);
}

/// Another run's checkpoint was evaluated there.
TEST_P(RunEvaluationTest, ABranchBeginsWithItsFirstStep) {
  ASSERT_EQ(train(config("run")), RunEnd::finished);
  Config branch = config("branch");
  branch.checkpoint.resume = (path("run") / "checkpoints" / "step-00000006").string();
  branch.train.steps = 7;
  ASSERT_EQ(train(branch), RunEnd::finished);
  ASSERT_EQ(rows("branch").size(), 1U);
  EXPECT_EQ(test::metrics_of(path("branch"))[0].at("step").as_integer(), 7);
}

}  // namespace
}  // namespace polymoe
