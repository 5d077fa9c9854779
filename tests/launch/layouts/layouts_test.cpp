// SPDX-License-Identifier: Apache-2.0
// Steps of layouts estimated from steps that were measured, and `polymoe plan --rates`.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/layouts/layout_search.h"
#include "launch/layouts/step_model.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::TemporaryDirectory;
using test::write_bytes;

/// What `polymoe bench --json` writes of a step, as far as it is read.
struct Bench {
  std::string config;
  std::string device = "";
  int ranks = 1;
  int threads = 1;
  int passes = 1;
  double tokens_per_second = 1000.0;
  double link = 1e9;  // bytes per second of a rank
  // other, data, forward, backward, exchange, exchange_wait, gradient_reduction, optimizer
  std::vector<double> shares = {1, 1, 25, 60, 8, 0, 0, 5};
};

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '\n' ? std::string("\\n") : std::string(1, c);
  return result;
}

std::string json_of(const Bench& bench) {
  std::string phases;
  for (std::size_t i = 0; i < bench.shares.size(); ++i)
    phases += fmt::format("{}\"{}\":{}", i == 0 ? "" : ",", name_of(static_cast<Phase>(i)),
                          bench.shares[i] / 100.0);
  const std::string link =
      bench.ranks == 1 ? ""
                       : fmt::format(
                             ",\"link\":{{\"all_to_all_bytes_per_second\":{0},"
                             "\"reduce_scatter_bytes_per_second\":{0},"
                             "\"all_gather_bytes_per_second\":{0},\"latency_seconds\":2e-5}}",
                             bench.link);
  return fmt::format(
      "{{\"machine\":{{\"device\":\"{}\",\"ranks\":{},\"threads_per_rank\":{},"
      "\"copy_bytes_per_second\":{},\"memory_of_rank_bytes\":150000000000{}}},"
      "\"step\":{{\"tokens_per_second\":{},\"passes\":{},\"seconds\":{{{}}}}},\"config\":\"{}\"}}",
      bench.device, bench.ranks, bench.threads,
      (bench.device.empty() ? 1e10 : 4.19e12) * bench.ranks, link, bench.tokens_per_second,
      bench.passes, phases, escaped(bench.config));
}

const std::string small =
    "[model]\nlayers = 4\nhidden = 64\nheads = 4\nvocab = 256\ncontext = 64\n"
    "[moe]\nexperts = 8\ntop_k = 2\nexpert_ffn = 96\n[train]\nglobal_batch = 16\n";

/// The model of launch/configs/moe-7b.ini, in the form that GPUs were measured with.
std::string moe_7b(int expert) {
  return fmt::format(
      "[model]\nlayers = 16\nhidden = 2048\nheads = 16\nvocab = 50304\ncontext = 4096\n"
      "qk_norm = true\n[moe]\nexperts = 64\ntop_k = 8\n[train]\nglobal_batch = 32\n"
      "micro_batch = 4\n[optimizer]\nmoment_dtype = bf16\n[parallel]\nexpert = {}\n",
      expert);
}

class LayoutsTest : public ::testing::Test {
 protected:
  MeasuredStep measured(const Bench& bench) const { return read_measured_step(file(bench)); }

  std::filesystem::path file(const Bench& bench) const {
    const auto path =
        directory_.path() / fmt::format("{}-{}.json", bench.ranks, bench.tokens_per_second);
    write_bytes(path, json_of(bench));
    return path;
  }

  /// The layout of a measured step on `ranks`, with so many parts of experts.
  static EstimatedLayout layout(const MeasuredStep& measured, int ranks, int expert) {
    EstimatedLayout result{.config = measured.config, .ranks = ranks, .ranks_per_node = 8};
    result.config.parallel.expert = expert;
    TrainConfig& train = result.config.train;
    train.micro_batch = std::min(train.micro_batch, train.global_batch / ranks);
    result.config.run.device = measured.on_gpu ? "cuda" : "cpu";
    result.plan = plan_memory(result.config,
                              {.ranks = ranks,
                               .threads = 1,
                               .backend = measured.on_gpu ? DeviceType::cuda : DeviceType::cpu});
    return result;
  }

  static double tokens_per_second(const StepModel& model, const EstimatedLayout& layout) {
    return static_cast<double>(layout.config.train.global_batch * layout.config.model.context) /
           model.estimate(layout).total();
  }

  /// `polymoe plan` with these arguments; what it printed.
  static std::string plan(const std::vector<std::string>& arguments) {
    CommandContext context;
    ::testing::internal::CaptureStdout();
    try {
      plan_command().run(context, arguments);
    } catch (...) {
      ::testing::internal::GetCapturedStdout();
      throw;
    }
    return ::testing::internal::GetCapturedStdout();
  }

  TemporaryDirectory directory_;
};

TEST_F(LayoutsTest, AMeasuredLayoutIsEstimatedAsItWasMeasured) {
  for (const int expert : {1, 2})
    for (const char* device : {"", "A GPU"}) {
      const MeasuredStep step =
          measured({.config = small + fmt::format("[parallel]\nexpert = {}\n", expert),
                    .device = device,
                    .ranks = 2,
                    .passes = 2});
      EXPECT_EQ(step.config.train.micro_batch, 4);
      const StepModel model({step}, {});
      const StepEstimate estimate = model.estimate(layout(step, 2, expert));
      EXPECT_NEAR(estimate.total(), step.seconds, 1e-9 * step.seconds) << device << expert;
      EXPECT_EQ(estimate.exchange > 0.0, expert == 2);
    }
}

TEST_F(LayoutsTest, RanksOfACpuShareItAndGpusDoNot) {
  for (const char* device : {"", "A GPU"}) {
    const MeasuredStep step = measured({.config = small, .device = device, .threads = 4});
    const LinkRates fast{
        .all_to_all = 1e15, .reduce_scatter = 1e15, .all_gather = 1e15, .latency = 1e-12};
    const StepModel model({step}, fast);
    const bool gpu = *device != '\0';
    const double one = model.estimate(layout(step, 1, 1)).compute;
    // Each of four ranks adds to all gradients, which is little here.
    EXPECT_NEAR(model.estimate(layout(step, 4, 1)).compute, gpu ? one / 4.0 : one, 0.02 * one);
  }
}

TEST_F(LayoutsTest, WhatTravelsIsCounted) {
  const MeasuredStep step = measured({.config = small, .device = "A GPU", .ranks = 2, .link = 1e6});
  const StepModel model({step}, {});
  const EstimatedLayout apart = layout(step, 2, 2);
  // A token of 16 * 64 / 2 has both of its experts here in 4/8 * 3/7 of all cases; rows of 64 bf16
  // values go four times in each of four layers, with 2 experts and f32 weights besides.
  const double rows = 4.0 * 512.0 * (1.0 - 4.0 / 8.0 * 3.0 / 7.0);
  const double bytes = rows * (4.0 * 2.0 * 64.0 + 2.0 * (4.0 + 2.0 * 4.0));
  EXPECT_NEAR(model.estimate(apart).exchange, bytes / 1e6 + 4.0 * 4.0 * 2e-5, 1e-9);
  EXPECT_EQ(model.estimate(layout(step, 2, 1)).exchange, 0.0);
  // Half of the bf16 values reach each rank after an update, hidden behind nothing on such a link.
  const EstimatedLayout together = layout(step, 2, 1);
  EXPECT_NEAR(model.estimate(together).optimizer,
              static_cast<double>(together.plan.parameters) / 2.0 / 1e6 + 6.0 * 2e-5, 0.01);
  EXPECT_GT(model.estimate(together).reduction, model.estimate(apart).reduction);
}

// Two H200s, 28 November 2026, balanced routing (docs/performance.md): 58,588 tokens/s on one,
// 110,666 data parallel, 107,188 with experts shared out.
TEST_F(LayoutsTest, TwoGpusAreWithinTenPercentOfWhatWasMeasured) {
  const Bench one{.config = moe_7b(1),
                  .device = "NVIDIA H200",
                  .passes = 8,
                  .tokens_per_second = 58588,
                  .shares = {0.4, 0.1, 25, 64, 8, 0, 0, 2.5}};
  const Bench two{.config = moe_7b(1),
                  .device = "NVIDIA H200",
                  .ranks = 2,
                  .passes = 4,
                  .tokens_per_second = 110666,
                  .link = 242e9,
                  .shares = {0.6, 0.1, 23.9, 64.5, 7.3, 0.2, 0.4, 3.0}};
  const LinkRates link{
      .all_to_all = 242e9, .reduce_scatter = 242e9, .all_gather = 242e9, .latency = 2e-5};
  const StepModel from_one({measured(one)}, link), from_two({measured(two)}, {});
  const MeasuredStep step = measured(one);
  EXPECT_NEAR(tokens_per_second(from_one, layout(step, 2, 1)) / 110666.0, 1.0, 0.1);
  EXPECT_NEAR(tokens_per_second(from_one, layout(step, 2, 2)) / 107188.0, 1.0, 0.1);
  EXPECT_NEAR(tokens_per_second(from_two, layout(step, 2, 2)) / 107188.0, 1.0, 0.1);
  EXPECT_NEAR(tokens_per_second(from_two, layout(step, 1, 1)) / 58588.0, 1.0, 0.1);
  EXPECT_TRUE(from_two.extrapolations(layout(step, 2, 2)).empty());
  EXPECT_EQ(from_two.extrapolations(layout(step, 4, 1)).size(), 1U);
}

TEST_F(LayoutsTest, EveryLayoutThatFitsIsRanked) {
  const MeasuredStep step = measured({.config = small, .ranks = 2});
  const StepModel model({step}, {});
  LayoutSearch search{.config = step.config, .fixed = {}, .ranks = 4, .ranks_per_node = 4};
  search.memory = std::size_t{1} << 40;
  const auto all = search_layouts(model, search);
  // Experts over 1, 2, 4 ranks; 1, 2, 4 sequences; three ways to recompute; two kinds of moments.
  EXPECT_EQ(all.size(), 3U * 3U * 3U * 2U);
  std::size_t most = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    most = std::max(most, all[i].memory());
    if (i > 0) {
      EXPECT_LE(all[i - 1].step.total(), all[i].step.total());
    }
  }
  search.memory = most - 1;
  EXPECT_LT(search_layouts(model, search).size(), all.size());
  search.fixed = {"parallel.expert", "train.recompute"};
  search.config.parallel.expert = 2;
  search.memory = std::size_t{1} << 40;
  EXPECT_EQ(search_layouts(model, search).size(), 3U * 2U);
  search.config.train.global_batch = 18;  // no even shares of 4 ranks
  EXPECT_EQ(search_layouts(model, search).size(), 2U);
  search.memory = 1000;
  EXPECT_THROW(search_layouts(model, search), InvalidArgument);
  search.ranks = 32;  // of 16 sequences
  EXPECT_THROW(search_layouts(model, search), InvalidArgument);
}

TEST_F(LayoutsTest, ThePlanSaysTimesAndJobs) {
  const std::string one = file({.config = small, .device = "A GPU"}).string();
  const std::string two =
      file({.config = small, .device = "A GPU", .ranks = 2, .tokens_per_second = 1900.0}).string();
  const std::string config = (directory_.path() / "it's.ini").string();
  write_bytes(config, small);
  const std::string table = plan({"--config", config, "--rates", one, two, "--ranks", "1,2,16"});
  EXPECT_NE(table.find("     1       1 "), std::string::npos) << table;
  EXPECT_NE(table.find("    16       8 "), std::string::npos) << table;
  EXPECT_NE(table.find("* extrapolated: more than 2 GPUs"), std::string::npos) << table;
  EXPECT_NE(table.find("* extrapolated: several nodes"), std::string::npos) << table;
  const std::string job = plan({"--config", config, "--rates", one, two, "--ranks", "16", "--emit",
                                "slurm", "--parallel.expert=4", "--run.dir=runs/x"});
  EXPECT_NE(job.find("sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8"), std::string::npos)
      << job;
  EXPECT_NE(job.find("it'\\''s.ini' --run.dir=runs/x --parallel.expert=4 --train.micro_batch=1 "),
            std::string::npos)
      << job;
  const std::string local =
      plan({"--config", config, "--rates", one, two, "--ranks", "2", "--emit", "mpirun"});
  EXPECT_NE(local.find("launch/mpirun/run 2 "), std::string::npos) << local;
}

TEST_F(LayoutsTest, WhatIsWrongIsSaid) {
  const std::string one = file({.config = small}).string();
  const auto refused = [&](std::vector<std::string> arguments, const char* what) {
    try {
      plan(arguments);
      ADD_FAILURE() << what << ": accepted";
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  const std::string config = (directory_.path() / "small.ini").string();
  write_bytes(config, small);
  refused({"--config", config, "--rates", one, "--ranks", "2"}, "which has no link");
  refused({"--config", config, "--rates", one, "--ranks", "1,"}, "--ranks : must be");
  refused({"--config", config, "--rates", one, "--link", "25"}, "--link 25: must be");
  refused({"--config", config, "--rates", one, "--emit", "pbs"}, "--emit pbs: must be");
  refused({"--config", config, "--rates", one, "--run.device=cuda"}, "run.device = cuda");
  refused({"--config", config, "--emit", "slurm"}, "--emit: needs --rates");
  refused({"--config", config, "--rates", one, "--against"}, "--against");
  const auto stray = directory_.path() / "stray.json";
  write_bytes(stray, "{\"machine\":{\"ranks\":1}}");
  EXPECT_THROW(read_measured_step(stray), InputFileError);
  const std::string gpu =
      file({.config = small, .device = "A GPU", .tokens_per_second = 7.0}).string();
  refused({"--config", config, "--rates", one, gpu}, "one is of CPUs");
}

}  // namespace
}  // namespace polymoe
