// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/run_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "launch/reports/run_rows.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

std::string row(int step, double loss, const std::string& more = "") {
  return R"({"step":)" + std::to_string(step) + R"(,"tokens":)" + std::to_string(step * 100) +
         R"(,"loss":)" + std::to_string(loss) +
         R"(,"lr":0.001,"grad_norm":1.5,"tokens_per_second":50.0,"mfu":0.4,"aux_loss":0.01,)" +
         R"("step_seconds":{"forward":0.5,"backward":1.0},"load_max_over_mean":[1.5,2.0],)" +
         R"("routing_entropy":[1.0,1.2])" + more + "}\n";
}

class RunReportTest : public testing::Test {
 protected:
  std::filesystem::path run(const std::string& name, const std::string& metrics) {
    const auto path = directory_.path() / name;
    std::filesystem::create_directories(path);
    test::write_bytes(path / "metrics.jsonl", metrics);
    return path;
  }
  test::TemporaryDirectory directory_;
};

TEST_F(RunReportTest, RowsAreSpreadOverALongFile) {
  std::string text;
  for (int step = 1; step <= 1000; ++step)
    text += row(step, 3.0, step == 123 ? R"(,"valid_loss":2.5)" : "");
  const RunRows rows = read_run_rows(run("a", text) / "metrics.jsonl", 100, {"valid_loss"});
  EXPECT_EQ(rows.lines, 1000);
  EXPECT_LE(rows.rows.size(), 102U);
  const std::vector<double> steps = rows.column("step");
  EXPECT_EQ(steps.front(), 1.0);
  EXPECT_EQ(steps.back(), 1000.0);
  int validations = 0;
  for (const double value : rows.column("valid_loss")) validations += std::isfinite(value);
  EXPECT_EQ(validations, 1);
  EXPECT_EQ(rows.column("step_seconds", "backward")[0], 1.0);
  EXPECT_EQ(rows.column("load_max_over_mean", 1)[0], 2.0);
  EXPECT_EQ(rows.entries("routing_entropy"), 2U);
}

TEST_F(RunReportTest, ATornLastRowIsLeftOutAndOthersAreNamed) {
  const auto torn = run("torn", row(1, 3.0) + row(2, 2.9) + R"({"step":3,"tok)") / "metrics.jsonl";
  const RunRows rows = read_run_rows(torn, 100);
  EXPECT_TRUE(rows.torn);
  EXPECT_EQ(rows.rows.size(), 2U);
  const auto damaged = run("damaged", row(1, 3.0) + "x\n" + row(2, 2.0)) / "metrics.jsonl";
  const std::string message =
      test::message_of<InputFileError>([&] { read_run_rows(damaged, 100); });
  EXPECT_NE(message.find("metrics.jsonl, line 2"), std::string::npos) << message;
}

TEST_F(RunReportTest, AResumedRunCountsAsItWroteLast) {
  const auto path =
      run("resumed", row(1, 5.0) + row(2, 4.0) + row(3, 3.0) + row(2, 4.5)) / "metrics.jsonl";
  EXPECT_EQ(read_run_rows(path, 100).column("loss"), (std::vector<double>{5.0, 4.5}));
}

TEST_F(RunReportTest, ShowsRunsOnOnePage) {
  if (std::system("gnuplot --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "gnuplot is not installed";
  std::string text;
  for (int step = 1; step <= 50; ++step)
    text += row(
        step, 8.0 / step,
        step % 10 == 0
            ? R"(,"valid_loss":2.5,"valid_loss/x":2.0,"valid_loss/y":3.0,"eval/arc/acc":0.3,"eval/arc/acc_per_byte":0.2)"
            : "");
  const auto a = run("a", text), b = run("b", text + R"({"st)");
  test::write_bytes(a / "experts.jsonl",
                    R"({"step":10,"tokens":1000,"layers":[0,3],"expert_tokens":[[5,3],[8,0]]})"
                    "\n"
                    R"({"step":20,"tokens":2000,"layers":[0,3],"expert_tokens":[[4,4],[7,1]]})"
                    "\n");
  const RunReport report = report_runs({a, b});
  // Six of loss, one of a task, three of optimization, three of speed, two of routing each, one per
  // layer of a.
  EXPECT_EQ(report.figures, 19);
  ASSERT_EQ(report.notes.size(), 1U);
  EXPECT_NE(report.notes[0].find("unfinished"), std::string::npos);
  for (const char* words :
       {"Training loss by tokens", "Validation loss of y", "arc: acc", "Gradient norm",
        "Where a step&#39;s time goes", "Load of the experts of layer 3", "5,000", "2.5000"})
    EXPECT_NE(report.html.find(words), std::string::npos) << words;
  // A dense model's balance loss is 0 in every row, which no logarithmic axis shows.
  const RunReport dense =
      report_runs({run("dense", R"({"step":1,"tokens":100,"loss":5.0,"lr":0.001,"aux_loss":0.0})"
                                "\n"
                                R"({"step":2,"tokens":200,"loss":4.0,"lr":0.001,"aux_loss":0.0})"
                                "\n")});
  EXPECT_EQ(dense.html.find("Balance loss"), std::string::npos);
  EXPECT_NE(dense.html.find("Learning rate"), std::string::npos);
}

TEST_F(RunReportTest, NamesWhatIsNoRun) {
  const std::string message =
      test::message_of<InputFileError>([&] { report_runs({directory_.path() / "none"}); });
  EXPECT_NE(message.find("is not the directory of a run"), std::string::npos) << message;
  EXPECT_THROW(report_runs({run("empty", "")}), InputFileError);
}

}  // namespace
}  // namespace polymoe
