// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "launch/machine/exit_code.h"
#include "launch/step/memory_plan.h"
#include "launch/training/run_checkpoints.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/error.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/parallel/checkpoint/save_fault.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::Fault;
using test::metrics_of;
using test::train;

class BackgroundSave : public testing::Test {
 protected:
  BackgroundSave() { test::write_tokens(directory_.path() / "tokens", 4000, 64, 1); }

  Config config(const std::string& run) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    config.train.steps = 7;
    config.checkpoint.every = 2;
    config.checkpoint.keep = 0;
    return config;
  }
  fs::path path(const std::string& name) const { return directory_.path() / name; }
  fs::path checkpoint(const std::string& run, std::int64_t step) const {
    return path(run) / "checkpoints" / checkpoint_name(step);
  }
  /// Trains on two ranks; rank 1 meets a full disk at its n-th piece.
  static RunEnd train_with_full_disk(const Config& config, int nth) {
    Fault fault(
        SavePoint::writing, [] { throw OutputFileError("shard", "No space left on device"); }, nth);
    return train(config, layout, [&](int rank, TrainerOptions& options) {
      if (rank == 1) options.saves = &fault;
    });
  }
  static constexpr test::Layout layout{.ranks = 2, .expert_parallel = 2};
  test::TemporaryDirectory directory_;
};

TEST(RoomForCheckpoints, IsMissedBeforeTheFirstSave) {
  EXPECT_EQ(room_warning(3'100'000, 3'100'000, "runs/a"), "");
  EXPECT_EQ(room_warning(3'100'000, 1'200'000, "runs/a"),
            "a checkpoint takes 3.1 MB, and 1.2 MB are free where run.dir = runs/a is: none can be "
            "written before there is room");
}

TEST_F(BackgroundSave, ChangesNothingInARunOrItsCheckpoints) {
  Config foreground = config("foreground");
  foreground.checkpoint.background = false;
  ASSERT_EQ(train(foreground, layout), RunEnd::finished);
  ASSERT_EQ(train(config("background"), layout), RunEnd::finished);
  const auto expected = metrics_of(path("foreground")), actual = metrics_of(path("background"));
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(test::without_times(actual[i]), test::without_times(expected[i]));
  for (const std::int64_t step : {2, 4, 6, 7}) {
    CheckpointReader(checkpoint("background", step)).verify_hashes();
    EXPECT_EQ(test::checkpoint_contents(checkpoint("background", step)),
              test::checkpoint_contents(checkpoint("foreground", step)))
        << step;
  }
  // The wait for the checkpoint of step 2 is in the row of step 3.
  EXPECT_EQ(actual[1].at("checkpoint_seconds").as_number(), 0.0);
  EXPECT_GT(actual[2].at("checkpoint_seconds").as_number(), 0.0);
}

TEST_F(BackgroundSave, AnErrorStopsEveryRankAtALaterStep) {
  const std::string message =
      test::message_of<OutputFileError>([&] { train_with_full_disk(config("run"), 1); });
  EXPECT_NE(message.find("step-00000002: not saved: rank 1: shard: No space left on device"),
            std::string::npos)
      << message;
  EXPECT_EQ(exit_code_of(OutputFileError("path", "cause")), 74);
  EXPECT_FALSE(fs::exists(checkpoint("run", 2)));
  EXPECT_GE(metrics_of(path("run")).size(), 2U);
}

TEST_F(BackgroundSave, TrainingGoesOnWhereItIsToldTo) {
  Config settings = config("run");
  settings.checkpoint.on_error = SaveFailure::proceed;
  ASSERT_EQ(train_with_full_disk(settings, 1), RunEnd::finished);
  EXPECT_EQ(metrics_of(path("run")).size(), 7U);
  EXPECT_FALSE(fs::exists(checkpoint("run", 2)));
  for (const std::int64_t step : {4, 6, 7})
    CheckpointReader(checkpoint("run", step)).verify_hashes();
}

TEST_F(BackgroundSave, TheLastCheckpointOfARunStopsItAllTheSame) {
  Config settings = config("run");
  settings.checkpoint.on_error = SaveFailure::proceed;
  settings.checkpoint.every = 0;
  const std::string message =
      test::message_of<OutputFileError>([&] { train_with_full_disk(settings, 2); });
  EXPECT_NE(message.find("step-00000007: not saved"), std::string::npos) << message;
  // What was trained is lost, and the run can be repeated.
  ASSERT_EQ(train(settings, layout), RunEnd::finished);
  CheckpointReader(checkpoint("run", 7)).verify_hashes();
}

TEST_F(BackgroundSave, TheMemoryPlanCountsTheStaging) {
  Config settings = config("run");
  const MemoryPlan two = plan_memory(settings, {.ranks = 2, .threads = 1});
  // A parameter and two moments of 4 bytes, over two ranks; a rank pads each of its pieces to 64
  // bytes, and rank 0 holds the router's biases too.
  const auto whole = static_cast<double>(two.total_parameters) * 12;
  EXPECT_GE(static_cast<double>(two.staging), whole / 2);
  EXPECT_LE(static_cast<double>(two.staging), 1.2 * whole / 2);
  // What a rank of a GPU holds is saved as f32 from host memory too.
  const PlannedLayout gpu{.ranks = 2, .threads = 1, .backend = DeviceType::cuda};
  EXPECT_EQ(plan_memory(settings, gpu).staging, two.staging);
  for (const auto& [every, background] : {std::pair{3, false}, std::pair{0, true}}) {
    settings.checkpoint.every = every;
    settings.checkpoint.background = background;
    const MemoryPlan without = plan_memory(settings, {.ranks = 2, .threads = 1});
    EXPECT_EQ(without.staging, 0U);
    EXPECT_EQ(without.rank_total() + two.staging, two.rank_total());
    EXPECT_EQ(plan_memory(settings, gpu).staging, 0U);
  }
}

}  // namespace
}  // namespace polymoe
