// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/resume.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parallel/checkpoint/reader.h"
#include "parallel/communication/local/local_communicator.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::checkpoint_contents;
using test::Layout;
using test::metrics_of;
using test::TemporaryDirectory;
using test::train;
using test::without_times;

/// By one rank.
StartPoint choose(const CheckpointConfig& config, const fs::path& run) {
  return choose_start(config, run, *make_local_communicators(1)[0]);
}

class ResumeTest : public testing::Test {
 protected:
  ResumeTest() {
    test::write_tokens(directory_.path() / "tokens", 4000, 64, 1);
    test::write_tokens(directory_.path() / "valid", 230, 64, 2);
  }

  fs::path path(const std::string& name) const { return directory_.path() / name; }
  Config config(const std::string& run) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    config.train.steps = 12;
    config.train.valid_every = 6;
    config.data.valid = {{.path = path("valid").string(), .weight = 1.0}};
    return config;
  }
  std::vector<std::string> rows(const std::string& run) const {
    std::vector<std::string> lines;
    for (const Json& row : metrics_of(path(run))) lines.push_back(without_times(row));
    return lines;
  }
  fs::path last(const std::string& run) const {
    return path(run) / "checkpoints" / "step-00000012";
  }
  /// Flips one byte in the middle of a shard.
  static void damage(const fs::path& checkpoint) {
    for (const auto& entry : fs::directory_iterator(checkpoint)) {
      if (entry.path().filename() == "manifest.json") continue;
      std::string bytes = test::read_bytes(entry.path());
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      test::write_bytes(entry.path(), bytes);
      return;
    }
  }

  TemporaryDirectory directory_;
};

TEST_F(ResumeTest, GoesOnExactlyAsIfItHadNeverStopped) {
  const Layout layout{.ranks = 4, .expert_parallel = 2};
  ASSERT_EQ(train(config("straight"), layout), RunEnd::finished);
  Config settings = config("stopped");
  settings.train.stop_after = 5;
  ASSERT_EQ(train(settings, layout), RunEnd::stopped);
  EXPECT_EQ(rows("stopped").size(), 5U);
  EXPECT_TRUE(fs::exists(path("stopped/checkpoints/step-00000005/manifest.json")));
  ASSERT_EQ(train(settings, layout), RunEnd::stopped);
  settings.train.stop_after = 0;
  ASSERT_EQ(train(settings, layout), RunEnd::finished);
  EXPECT_EQ(rows("stopped"), rows("straight"));
  EXPECT_EQ(checkpoint_contents(last("stopped")), checkpoint_contents(last("straight")));
  // A finished run has nothing left to do, and changes nothing.
  ASSERT_EQ(train(settings, layout), RunEnd::finished);
  EXPECT_EQ(rows("stopped"), rows("straight"));
}

TEST_F(ResumeTest, RowsBeyondTheCheckpointAreWrittenAnew) {
  const Layout layout{.ranks = 2, .expert_parallel = 2};
  ASSERT_EQ(train(config("straight"), layout), RunEnd::finished);
  Config settings = config("killed");
  settings.checkpoint.every = 4;
  settings.train.stop_after = 6;
  ASSERT_EQ(train(settings, layout), RunEnd::stopped);
  // As if the process had been killed after step 6 while it wrote a row.
  fs::remove_all(path("killed/checkpoints/step-00000006"));
  test::write_bytes(path("killed/metrics.jsonl"),
                    test::read_bytes(path("killed/metrics.jsonl")) + R"({"step":7,"tok)");
  settings.train.stop_after = 0;
  ASSERT_EQ(train(settings, layout), RunEnd::finished);
  EXPECT_EQ(rows("killed"), rows("straight"));
  EXPECT_EQ(checkpoint_contents(last("killed")), checkpoint_contents(last("straight")));
}

TEST_F(ResumeTest, AReplacedTokenFileIsRefusedUnlessAccepted) {
  Config settings = config("replaced");
  settings.train.stop_after = 4;
  ASSERT_EQ(train(settings, {.ranks = 2}), RunEnd::stopped);
  test::write_tokens(path("tokens"), 5000, 64, 3);
  const std::string message =
      test::message_of<InputFileError>([&] { train(settings, {.ranks = 2}); });
  EXPECT_NE(message.find("5,000 tokens instead of 4,000"), std::string::npos) << message;
  settings.data.accept_changed = true;
  EXPECT_EQ(train(settings, {.ranks = 2}), RunEnd::stopped);
}

TEST_F(ResumeTest, ABranchGoesOnInANewDirectoryWithOtherSettings) {
  Config settings = config("trunk");
  settings.train.stop_after = 6;
  ASSERT_EQ(train(settings, {.ranks = 1}), RunEnd::stopped);
  Config branch = config("branch");
  branch.checkpoint.resume = path("trunk").string();
  branch.train.steps = 8;
  branch.optimizer.schedule = Schedule::linear;
  branch.model.rope_theta = 5e5;
  branch.model.context *= 2;
  test::write_tokens(path("more"), 3000, 64, 4);
  branch.data.train.push_back({.path = path("more").string(), .weight = {}});
  ASSERT_EQ(train(branch, {.ranks = 1}), RunEnd::finished);
  EXPECT_TRUE(fs::exists(path("branch/checkpoints/step-00000008/manifest.json")));
  EXPECT_FALSE(fs::exists(path("trunk/checkpoints/step-00000008")));
  const CheckpointReader reader(path("trunk/checkpoints/step-00000006"));
  std::string lines;
  for (const std::string& line : changed_settings(branch, reader.info(), reader.directory()))
    lines += line + "\n";
  for (const char* key : {"model.rope_theta = 5e+05", "model.context", "data.train",
                          "optimizer.schedule = linear", "train.steps = 8"})
    EXPECT_NE(lines.find(key), std::string::npos) << key << " in\n" << lines;
}

TEST_F(ResumeTest, CopiesUnderNamesOfTheUsersAreNoneOfTheRuns) {
  Config settings = config("kept");
  settings.train.stop_after = 4;
  ASSERT_EQ(train(settings, {.ranks = 1}), RunEnd::stopped);
  const fs::path checkpoints = path("kept/checkpoints");
  for (const char* name : {"step-best", "step-00000004_keep", "step-99999999x"})
    fs::copy(checkpoints / "step-00000004", checkpoints / name, fs::copy_options::recursive);
  CheckpointConfig resume;
  resume.resume = (checkpoints / "step-00000004").string();
  EXPECT_EQ(choose(resume, path("kept")).checkpoint->info().step, 4);
  resume.resume = (checkpoints / "step-best").string();
  EXPECT_EQ(choose(resume, path("kept")).checkpoint->info().step, 4);
  fs::remove_all(checkpoints / "step-00000004");
  resume.resume = "auto";
  EXPECT_FALSE(choose(resume, path("kept")).checkpoint.has_value());
}

TEST_F(ResumeTest, AnyLayoutGoesOnFromAnyOther) {
  ASSERT_EQ(train(config("straight"), {.ranks = 1}), RunEnd::finished);
  const auto expected = metrics_of(path("straight"));
  const auto tensors = checkpoint_contents(last("straight"));
  const std::vector<std::pair<Layout, Layout>> changes = {
      {{1, 1}, {4, 4}}, {{4, 2}, {1, 1}}, {{2, 2}, {4, 1}}, {{4, 4}, {2, 1}}};
  for (const auto& [first, second] : changes) {
    const std::string run = "run-" + std::to_string(first.ranks) +
                            std::to_string(first.expert_parallel) + "-" +
                            std::to_string(second.ranks) + std::to_string(second.expert_parallel);
    SCOPED_TRACE(run);
    Config settings = config(run);
    settings.train.stop_after = 6;
    ASSERT_EQ(train(settings, first), RunEnd::stopped);
    settings.train.stop_after = 0;
    ASSERT_EQ(train(settings, second), RunEnd::finished);
    const auto actual = metrics_of(path(run));
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      for (const char* key : {"loss", "grad_norm"}) {
        const double reference = expected[i].at(key).as_number();
        EXPECT_NEAR(actual[i].at(key).as_number(), reference, 1e-5 * reference)
            << key << " of step " << i + 1;
      }
    // Parameters and both moments of every tensor, experts included.
    const auto contents = checkpoint_contents(last(run));
    ASSERT_EQ(contents.size(), tensors.size());
    for (const auto& [name, values] : tensors) {
      const auto& own = contents.at(name);
      ASSERT_EQ(own.size(), values.size()) << name;
      double difference = 0.0, norm = 0.0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        difference += std::pow(static_cast<double>(own[i]) - values[i], 2);
        norm += std::pow(values[i], 2);
      }
      EXPECT_LE(std::sqrt(difference), 1e-4 * std::sqrt(norm)) << name;
    }
  }
}

TEST_F(ResumeTest, ARequestToStopOfOneRankEndsAllWithACheckpoint) {
  const Layout layout{.ranks = 2, .expert_parallel = 2};
  ASSERT_EQ(train(config("straight"), layout), RunEnd::finished);
  const auto request = [](int rank, TrainerOptions& options) {
    if (rank == 1)
      options.stop_requested = [asked = 0]() mutable {
        return ++asked == 4 ? StopRequest::preempt : StopRequest::none;
      };
  };
  ASSERT_EQ(train(config("run"), layout, request), RunEnd::preempted);
  EXPECT_EQ(rows("run").size(), 3U);
  EXPECT_TRUE(fs::exists(path("run/checkpoints/step-00000003/manifest.json")));
  ASSERT_EQ(train(config("run"), layout), RunEnd::finished);
  EXPECT_EQ(rows("run"), rows("straight"));
}

TEST_F(ResumeTest, AValidationIsLeftForAStopAndTheStepBeforeItIsSaved) {
  Config settings = config("run");
  settings.data.valid = settings.data.train;
  settings.train.valid_every = 2;
  settings.checkpoint.every = 2;
  bool saved_before = false;
  const auto request = [&](int rank, TrainerOptions& options) {
    // Asked before the first step, in both, and then before each pass of the validation.
    if (rank == 1)
      options.stop_requested = [&saved_before, this, asked = 0]() mutable {
        if (++asked < 6) return StopRequest::none;
        saved_before =
            fs::exists(path("run/checkpoints")) && !fs::is_empty(path("run/checkpoints"));
        return StopRequest::preempt;
      };
  };
  ASSERT_EQ(train(settings, {.ranks = 2, .expert_parallel = 2}, request), RunEnd::preempted);
  EXPECT_TRUE(saved_before);
  EXPECT_TRUE(fs::exists(path("run/checkpoints/step-00000002/manifest.json")));
  const auto rows = metrics_of(path("run"));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[1].find("valid_loss"), nullptr);
}

TEST_F(ResumeTest, WorkIsSavedByTimeToo) {
  Config settings = config("run");
  settings.train.stop_after = 3;
  settings.checkpoint.every = 0;
  settings.checkpoint.every_seconds = 1e-9;
  settings.checkpoint.keep = 0;
  ASSERT_EQ(train(settings, {.ranks = 2, .expert_parallel = 2}), RunEnd::stopped);
  for (const char* step : {"step-00000001", "step-00000002", "step-00000003"})
    EXPECT_TRUE(fs::exists(path("run/checkpoints") / step / "manifest.json")) << step;
}

TEST_F(ResumeTest, DamagedCheckpointIsPassedOver) {
  const Layout layout{.ranks = 2, .expert_parallel = 2};
  ASSERT_EQ(train(config("straight"), layout), RunEnd::finished);
  Config settings = config("run");
  settings.checkpoint.every = 4;
  settings.train.stop_after = 8;
  ASSERT_EQ(train(settings, layout), RunEnd::stopped);
  const fs::path newest = path("run/checkpoints/step-00000008");
  damage(newest);
  const StartPoint start = choose(settings.checkpoint, path("run"));
  ASSERT_TRUE(start.checkpoint);
  EXPECT_EQ(start.checkpoint->directory().filename(), "step-00000004");
  ASSERT_EQ(start.notes.size(), 1U);
  EXPECT_NE(start.notes[0].find("step-00000008"), std::string::npos) << start.notes[0];

  run_ranks(3, [&](std::unique_ptr<Communicator> world) {
    const StartPoint together = choose_start(settings.checkpoint, path("run"), *world);
    ASSERT_TRUE(together.checkpoint);
    EXPECT_EQ(together.checkpoint->directory(), start.checkpoint->directory());
    EXPECT_EQ(together.notes, start.notes);
  });

  settings.train.stop_after = 0;
  ASSERT_EQ(train(settings, layout), RunEnd::finished);
  EXPECT_EQ(rows("run"), rows("straight"));
  CheckpointReader(newest).verify_hashes();  // written anew on the way

  damage(newest);
  damage(last("run"));
  const std::string message =
      test::message_of<InputFileError>([&] { choose(settings.checkpoint, path("run")); });
  EXPECT_NE(message.find("no checkpoint is valid"), std::string::npos) << message;
  run_ranks(3, [&](std::unique_ptr<Communicator> world) {
    EXPECT_EQ(test::message_of<InputFileError>(
                  [&] { choose_start(settings.checkpoint, path("run"), *world); }),
              message);
  });
}

TEST_F(ResumeTest, ARunKilledInItsFirstCheckpointStartsAnew) {
  fs::create_directories(path("killed/checkpoints/step-00000004.partial"));
  const StartPoint start = choose({.resume = "auto"}, path("killed"));
  EXPECT_FALSE(start.checkpoint);
  ASSERT_EQ(start.notes.size(), 1U);
  EXPECT_NE(start.notes[0].find("was never committed"), std::string::npos) << start.notes[0];
}

TEST_F(ResumeTest, CheckpointOfAnotherModelIsRefused) {
  Config settings = config("run");
  settings.train.stop_after = 1;
  ASSERT_EQ(train(settings, {.ranks = 2}), RunEnd::stopped);
  settings.model.hidden = 64;
  settings.model.moe.experts = 8;
  const std::string message =
      test::message_of<InvalidArgument>([&] { train(settings, {.ranks = 2}); });
  EXPECT_NE(message.find("model.hidden"), std::string::npos) << message;
  EXPECT_NE(message.find("moe.experts"), std::string::npos) << message;
  EXPECT_EQ(message.find("model.heads"), std::string::npos) << message;
}

TEST_F(ResumeTest, FollowsTheKey) {
  Config settings = config("run");
  settings.train.stop_after = 2;
  settings.checkpoint.every = 1;
  ASSERT_EQ(train(settings, {.ranks = 1}), RunEnd::stopped);

  EXPECT_FALSE(choose({.resume = "auto"}, path("new")).checkpoint);
  EXPECT_FALSE(choose({.resume = "none"}, path("new")).checkpoint);
  const std::string message =
      test::message_of<InvalidArgument>([&] { choose({.resume = "none"}, path("run")); });
  EXPECT_NE(message.find("checkpoint.resume = auto"), std::string::npos) << message;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    EXPECT_EQ(test::message_of<InvalidArgument>(
                  [&] { choose_start({.resume = "none"}, path("run"), *world); }),
              message);
  });

  const fs::path older = path("run/checkpoints/step-00000001");
  EXPECT_EQ(choose({.resume = older.string()}, path("new")).checkpoint->directory(), older);
  EXPECT_EQ(
      choose({.resume = path("run").string()}, path("new")).checkpoint->directory().filename(),
      "step-00000002");
  // Going on from an older one would run into the newer one.
  EXPECT_THROW(choose({.resume = older.string()}, path("run")), InvalidArgument);
  EXPECT_THROW(choose({.resume = path("nothing").string()}, path("new")), InputFileError);
  EXPECT_THROW(choose({.resume = path("run/tensorboard").string()}, path("new")), InputFileError);

  // A run that continues another one's checkpoint commits its own.
  Config continued = config("continued");
  continued.checkpoint.resume = older.string();
  continued.train.stop_after = 1;
  ASSERT_EQ(train(continued, {.ranks = 1}), RunEnd::stopped);
  EXPECT_EQ(checkpoint_contents(path("continued/checkpoints/step-00000002")),
            checkpoint_contents(path("run/checkpoints/step-00000002")));
}

TEST_F(ResumeTest, StateSurvivesItsText) {
  const TrainingState state{.next_sample = 123456789012};
  EXPECT_EQ(TrainingState::from_text(state.to_text(), "here").next_sample, state.next_sample);
  EXPECT_THROW(TrainingState::from_text("{}", "here"), InputFileError);
  EXPECT_THROW(TrainingState::from_text(R"({"next_sample":-1})", "here"), InputFileError);
}

}  // namespace
}  // namespace polymoe
