// SPDX-License-Identifier: Apache-2.0
// `polymoe study` from outside: what runs, what is skipped, resumed and named.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "launch/studies/cell_process.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/process.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::ProcessResult;
using test::read_bytes;
using test::run_process;
using test::TemporaryDirectory;
using test::write_bytes;

class StudyRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::write_tokens(directory_.path() / "tokens", 4000, 64, 1);
    write_bytes(directory_.path() / "base.ini",
                "[model]\nlayers = 1\nhidden = 16\nheads = 2\nvocab = 64\ncontext = 16\n"
                "[data]\ntrain = " +
                    (directory_.path() / "tokens").string() +
                    "\n[train]\nsteps = 4\nglobal_batch = 4\n[run]\ndevice = cpu\nthreads = 1\n");
  }
  std::string write_study(const std::string& text) const {
    const fs::path file = directory_.path() / "study.ini";
    write_bytes(file, "[study]\nbase = base.ini\ndir = " + cells().string() + "\n" + text);
    return file.string();
  }
  fs::path cells() const { return directory_.path() / "cells"; }
  static ProcessResult study(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {POLYMOE_PROGRAM, "study"});
    return run_process(arguments);
  }
  /// The one directory of a cell whose name starts so.
  fs::path cell(const std::string& prefix) const {
    for (const auto& entry : fs::directory_iterator(cells()))
      if (entry.path().filename().string().starts_with(prefix)) return entry.path();
    return cells() / (prefix + " is missing");
  }
  static std::size_t rows(const fs::path& cell) {
    const std::string text = read_bytes(cell / "metrics.jsonl");
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  static void expect_has(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' not in: " << text;
  }

  TemporaryDirectory directory_;
};

TEST_F(StudyRunTest, AFailedCellIsNamedAndTheOthersRun) {
  const std::string file = write_study(
      "[set]\noptimizer.clip = 0\ntrain.max_skipped = 2\n[axes]\n"
      "optimizer.lr ranks parallel.expert = 1e-3 1 1, 1e30 1 1, 1e-4 2 1\n");
  const ProcessResult plan = study({"run", file, "--dry-run"});
  expect_has(plan.standard_output, "3 would run, 0 finished, 0 diverged");
  EXPECT_FALSE(fs::exists(cells()));
  const ProcessResult first = study({"run", file, "--jobs", "2"});
  EXPECT_EQ(first.exit_code, 86) << first.standard_output << first.standard_error;
  expect_has(first.standard_output, "2 finished now, 0 before, 1 failed");
  expect_has(first.standard_output, "failed: 1e30");
  expect_has(first.standard_output, "exit code 86: polymoe: ");
  EXPECT_EQ(rows(cell("1e-3")), 4U);
  EXPECT_EQ(rows(cell("1e-4")), 4U);
  const ProcessResult again = study({"run", file});
  EXPECT_EQ(again.exit_code, 86);
  expect_has(again.standard_output, "0 finished now, 2 before, 1 failed");
  // A study that was changed names what does not belong to it, and leaves it.
  const ProcessResult changed = study({"run", write_study("[axes]\noptimizer.lr = 2e-4\n")});
  EXPECT_EQ(changed.exit_code, 0) << changed.standard_output << changed.standard_error;
  expect_has(changed.standard_error, "1e-4");
  expect_has(changed.standard_error, "no cell of this study any more");
  EXPECT_EQ(rows(cell("1e-3")), 4U);
}

TEST_F(StudyRunTest, BranchesGoOnFromTheirTrunk) {
  const std::string file = write_study("[branches]\ntokens = 640 1280\ndecay = 50%\n");
  const ProcessResult result = study({"run", file, "--jobs", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.standard_output << result.standard_error;
  expect_has(result.standard_output, "3 finished now");
  EXPECT_EQ(rows(cell("cell_seed0_trunk")), 10U);
  EXPECT_EQ(rows(cell("cell_seed0_640")), 5U);  // of its 10 steps, those behind the fork
  const std::string log = read_bytes(cell("cell_seed0_1280") / "log");
  expect_has(log, "step-00000010");
  expect_has(log, "changed since that checkpoint: optimizer.schedule = wsd (checkpoint: constant)");
  expect_has(read_bytes(cell("cell_seed0_1280") / "metrics.jsonl"), "{\"step\":20,");
}

TEST_F(StudyRunTest, StoppingLeavesCellsThatGoOn) {
  const std::string file = write_study("[set]\ntrain.steps = 100000\n");
  const fs::path output = directory_.path() / "out";
  CellProcess runner(
      {.arguments = {POLYMOE_PROGRAM, "study", "run", file}, .environment = {}, .output = output});
  const auto wait_for = [&](auto condition) {
    for (int i = 0; i < 4500 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(40));
    return condition();
  };
  ASSERT_TRUE(wait_for([&] {
    return fs::exists(cells()) && fs::exists(cell("cell_") / "metrics.jsonl") &&
           rows(cell("cell_")) > 2;
  })) << read_bytes(output);
  // Nobody else runs the same cell.
  const ProcessResult other = study({"run", file});
  EXPECT_EQ(other.exit_code, 0) << other.standard_error;
  expect_has(other.standard_output, "left: cell_seed0");
  expect_has(other.standard_output, "run by process ");
  runner.signal(SIGINT);
  std::optional<int> code;
  ASSERT_TRUE(wait_for([&] { return (code = code ? code : runner.ended()).has_value(); }));
  EXPECT_EQ(*code, 85) << read_bytes(output);
  expect_has(read_bytes(output), "to be resumed");
  const std::size_t done = rows(cell("cell_"));
  const ProcessResult plan = study({"run", file, "--dry-run"});
  expect_has(plan.standard_output,
             "would run, " + std::to_string(done) + " of 100000 steps are done");
}

TEST_F(StudyRunTest, ABudgetThatIsExceededStopsAllBeforeAnythingRuns) {
  const ProcessResult result = study({"run", write_study("[budget]\ntokens = 100\n")});
  EXPECT_EQ(result.exit_code, 64);
  expect_has(result.standard_error, "budget.tokens = 100: the study takes 256 tokens");
  EXPECT_FALSE(fs::exists(cells()));
}

}  // namespace
}  // namespace polymoe
