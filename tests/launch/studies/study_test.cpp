// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>

#include "launch/studies/study_costs.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::TemporaryDirectory;
using test::write_bytes;

class StudyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write("base.ini",
          "[model]\nlayers = 2\nhidden = 32\nheads = 2\nvocab = 64\ncontext = 16\n"
          "[moe]\nexperts = 4\ntop_k = 2\n[data]\ntrain = tokens\n"
          "[train]\nsteps = 20\nglobal_batch = 8\n[run]\ndevice = cpu\n");
  }
  void write(const std::string& name, const std::string& text) const {
    write_bytes(directory_.path() / name, text);
  }
  Study study(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    write("study.ini",
          "[study]\nbase = base.ini\ndir = " + (directory_.path() / "s").string() + "\n" + text);
    return read_study(directory_.path() / "study.ini", overrides);
  }
  std::string refusal(const std::string& text) const {
    try {
      study(text);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "nothing was refused";
  }
  static std::set<std::string> names(const Study& study) {
    std::set<std::string> result;
    for (const Cell& cell : study.cells) result.insert(cell.name);
    return result;
  }

  TemporaryDirectory directory_;
};

const char* const two_axes =
    "seeds = 3 4\nbaseline = swiglu\n[axes]\nmodel.activation = polynorm, swiglu\n"
    "ranks model.layers model.hidden = 1 1 32, 2 2 64\n";

TEST_F(StudyTest, CellsAreAllCombinationsSeedBySeed) {
  const Study made = study(two_axes);
  ASSERT_EQ(made.cells.size(), 8U);
  EXPECT_EQ(names(made).size(), 8U);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(made.cells[i].seed, i < 4 ? 3U : 4U);
  const Cell& last = made.cells[7];
  EXPECT_EQ(last.config.model.activation.kind, ActivationKind::swiglu);
  EXPECT_EQ(last.config.model.layers, 2);
  EXPECT_EQ(last.config.model.hidden, 64);
  EXPECT_EQ(last.config.train.seed, 4U);
  EXPECT_EQ(last.ranks, 2);
  EXPECT_EQ(last.tokens(), 20 * 8 * 16);
  EXPECT_TRUE(last.name.starts_with("swiglu_2_seed4-")) << last.name;
  EXPECT_EQ(last.config.run.dir, (made.directory / last.name).string());
  EXPECT_EQ(made.compared_axis, 0U);
  EXPECT_EQ(made.labels(last), (std::vector<std::string>{"swiglu", "2"}));
}

TEST_F(StudyTest, IdentityIsOfWhatRunsAndNotOfWhere) {
  const auto original = names(study(two_axes));
  EXPECT_EQ(names(study(two_axes, {"--run.threads=1", "--checkpoint.every=5"})), original);
  EXPECT_EQ(names(study(two_axes, {"--model.context=16"})), original) << "the same value";
  const auto changed = names(study(two_axes, {"--train.steps=21"}));
  for (const std::string& name : changed) EXPECT_FALSE(original.contains(name)) << name;
  // A further value and a further seed leave the cells that there were.
  const auto wider =
      names(study("seeds = 3 4 5\n[axes]\nmodel.activation = gelu, polynorm, swiglu\n"
                  "ranks model.layers model.hidden = 1 1 32, 2 2 64\n"));
  EXPECT_EQ(wider.size(), 18U);
  EXPECT_TRUE(std::includes(wider.begin(), wider.end(), original.begin(), original.end()));
}

TEST_F(StudyTest, EveryViolationIsListedAtOnce) {
  const std::string message = refusal(
      "sedes = 3\nseeds = 1 2\n[budget]\nflops = x\n[set]\nmodel.hiden = 3\ntrain.seed = 4\n"
      "[axes]\nmodel.layers = 1, 0\nmoe.top_k = 1, 9\nmodel.hidden model.heads = 32 2, 64\n");
  for (const char* part :
       {"study.sedes: unknown key; did you mean study.seeds?", "budget.flops = x: must be",
        "set: model.hiden: unknown key; did you mean model.hidden?", "train.seed: is set by",
        "axes: model.layers = 0: must be a whole number in", "'64' must be 2 words",
        "moe.top_k = 9: must be in [1, 4] (cell 9_seed1 and 1 more)"})
    EXPECT_NE(message.find(part), std::string::npos) << part << " not in: " << message;
}

TEST_F(StudyTest, CellsThatWouldBeTheSameAreRefused) {
  const std::string message = refusal("[axes]\ntrain.steps optimizer.beta1 = 20 0.9, 20 0.90\n");
  EXPECT_NE(message.find("would be the same run"), std::string::npos) << message;
  EXPECT_NE(refusal("[axes]\nmodel.layers = 2, 2\n").find("given more than once"),
            std::string::npos);
}

TEST_F(StudyTest, CellsOfAnEarlierFormAreNamed) {
  const Study before = study("seeds = 1\n[axes]\nmodel.layers = 1, 2\n");
  for (const Cell& cell : before.cells) {
    std::filesystem::create_directories(cell.config.run.dir);
    write_bytes(std::filesystem::path(cell.config.run.dir) / "config.ini", "");
  }
  EXPECT_TRUE(foreign_cells(before).empty());
  const Study after = study("seeds = 1\n[set]\ntrain.steps = 10\n[axes]\nmodel.layers = 1, 2\n");
  EXPECT_EQ(foreign_cells(after).size(), 2U) << "other cells than those with 20 steps";
}

TEST_F(StudyTest, AMissingBaseAndAnUnknownBaselineAreNamed) {
  write("study.ini", "[study]\nbase = nowhere.ini\ndir = s\n");
  try {
    read_study(directory_.path() / "study.ini", {});
    FAIL() << "no base, no error";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("nowhere.ini"), std::string::npos) << error.what();
  }
  const std::string message = refusal("baseline = gelu\n[axes]\nmodel.activation = relu, silu\n");
  EXPECT_NE(message.find("study.baseline = gelu: must be the label"), std::string::npos) << message;
}

TEST_F(StudyTest, BranchesForkWhereTheirDecayBegins) {
  const Study made = study("[branches]\ntokens = 1280 2560\ndecay = 20%\n");  // 10, 20 steps
  ASSERT_EQ(made.cells.size(), 3U);
  const Cell &trunk = made.cells[0], &first = made.cells[1], &second = made.cells[2];
  EXPECT_EQ(trunk.kind, CellKind::trunk);
  EXPECT_EQ(trunk.forks, (std::vector<std::int64_t>{8, 16}));
  EXPECT_EQ(trunk.config.train.steps, 16);
  EXPECT_EQ(trunk.config.optimizer.schedule, Schedule::constant);
  EXPECT_EQ(trunk.config.checkpoint.keep, 0);
  EXPECT_EQ(first.fork, 8);
  EXPECT_EQ(second.config.train.steps, 20);
  EXPECT_EQ(second.config.optimizer.schedule, Schedule::wsd);
  EXPECT_EQ(second.tokens(), 2560);
  EXPECT_EQ(second.config.checkpoint.resume, trunk.config.run.dir + "/checkpoints/step-00000016");
  const std::string message = refusal("[branches]\ntokens = 1280\n[set]\noptimizer.warmup = 5%\n");
  EXPECT_NE(message.find("optimizer.warmup = 5%: must be steps or tokens"), std::string::npos)
      << message;
}

TEST_F(StudyTest, CostsAddUpAndABudgetIsHeld) {
  Study made = study("[budget]\nflops = 1e6\nhours = 1\n[branches]\ntokens = 1280 2560\n");
  std::vector<CellCost> costs = plan_cells(made);
  // The trunk's 16 steps, and 2 and 4 of decay.
  EXPECT_EQ(costs[0].tokens + costs[1].tokens + costs[2].tokens, (16 + 2 + 4) * 128);
  EXPECT_GT(costs[0].memory, 0U);
  std::vector<std::string> lines = budget_violations(made, costs);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_TRUE(lines[0].starts_with("budget.flops = 1e+06: the study takes")) << lines[0];
  EXPECT_NE(lines[1].find("needs the machine's speed"), std::string::npos) << lines[1];
  made.budget.flops.reset();
  made.flops_per_second = 1e9;
  costs = plan_cells(made);
  EXPECT_DOUBLE_EQ(costs[0].seconds, costs[0].flops / 1e9);
  EXPECT_TRUE(budget_violations(made, costs).empty());
}

}  // namespace
}  // namespace polymoe
