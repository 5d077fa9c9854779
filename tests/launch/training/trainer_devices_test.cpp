// SPDX-License-Identifier: Apache-2.0
// Training where it runs: its course against the CPU's, its bits, its checkpoints elsewhere.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <map>
#include <numeric>

#include "launch/training/trainer.h"
#include "support/devices.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::checkpoint_contents;
using test::Layout;
using test::metrics_of;

class TrainerDevices : public test::OnDevice {
 protected:
  TrainerDevices() {
    test::write_tokens(directory_.path() / "tokens", 40000, 64, 1);
    test::write_tokens(directory_.path() / "valid", 16 * 13 + 6, 64, 2);
  }

  Config config(const std::string& run, std::int64_t steps) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    config.train.steps = steps;
    return config;
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

  RunEnd train_here(Config config, Layout layout = {}) {
    config.train.precision = dtype() == DType::bf16 ? Precision::bf16 : Precision::f32;
    return test::train(config, layout,
                       [&](int, TrainerOptions& options) { options.device = device(); });
  }
  static RunEnd train_on_cpu(const Config& config) { return test::train(config, {}); }

  static std::vector<double> losses_of(const std::filesystem::path& run) {
    std::vector<double> losses;
    for (const Json& row : metrics_of(run)) losses.push_back(row.at("loss").as_number());
    return losses;
  }

  test::TemporaryDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(All, TrainerDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(TrainerDevices, FollowsTheLossInSinglePrecision) {
  constexpr std::int64_t steps = 200;
  ASSERT_EQ(train_on_cpu(config("reference", steps)), RunEnd::finished);
  ASSERT_EQ(train_here(config("here", steps)), RunEnd::finished);
  const std::vector<double> reference = losses_of(path("reference")),
                            here = losses_of(path("here"));
  ASSERT_EQ(here.size(), reference.size());
  // A step's loss is that of 128 tokens; the course is the mean over 20 steps.
  constexpr std::size_t window = 20;
  for (std::size_t begin = 0; begin < here.size(); begin += window) {
    double expected = 0.0, actual = 0.0;
    for (std::size_t i = begin; i < begin + window; ++i) {
      expected += reference[i];
      actual += here[i];
    }
    EXPECT_NEAR(actual, expected, 0.01 * expected) << "steps from " << begin + 1;
  }
  if (dtype() == DType::bf16) return;
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(here[i], reference[i], 1e-5 * reference[i]) << i;
}

TEST_P(TrainerDevices, ResumingGivesTheBitsOfOneRun) {
  ASSERT_EQ(train_here(config("straight", 12)), RunEnd::finished);
  Config first = config("resumed", 12);
  first.train.stop_after = 7;
  ASSERT_EQ(train_here(first), RunEnd::stopped);
  ASSERT_EQ(train_here(config("resumed", 12)), RunEnd::finished);
  EXPECT_EQ(losses_of(path("resumed")), losses_of(path("straight")));
  EXPECT_EQ(checkpoint_contents(path("resumed/checkpoints/step-00000012")),
            checkpoint_contents(path("straight/checkpoints/step-00000012")));
}

TEST_P(TrainerDevices, NarrowMomentsSurviveTheirCheckpoint) {
  const auto narrow = [&](const std::string& run) {
    Config settings = config(run, 12);
    settings.optimizer.adamw.moment_dtype = DType::bf16;
    return settings;
  };
  ASSERT_EQ(train_here(narrow("straight")), RunEnd::finished);
  Config first = narrow("resumed");
  first.train.stop_after = 7;
  ASSERT_EQ(train_here(first), RunEnd::stopped);
  ASSERT_EQ(train_here(narrow("resumed")), RunEnd::finished);
  EXPECT_EQ(losses_of(path("resumed")), losses_of(path("straight")));
  EXPECT_LT(losses_of(path("straight")).back(), losses_of(path("straight")).front());
}

TEST_P(TrainerDevices, NarrowGradientsTakeTheCourseOfWideOnes) {
  const auto narrow = [&](const std::string& run, std::int64_t steps) {
    Config settings = config(run, steps);
    settings.optimizer.gradient_dtype = DType::bf16;
    return settings;
  };
  if (dtype() != DType::bf16) {
    EXPECT_THROW(train_here(narrow("refused", 1)), InvalidArgument);
    return;
  }
  constexpr std::size_t steps = 60, window = 20;
  const auto expect_near = [](const std::vector<double>& actual, const std::vector<double>& wide) {
    for (std::size_t begin = 0; begin < actual.size(); begin += window) {
      const auto sum_of = [begin](const std::vector<double>& losses) {
        const auto first = losses.begin() + static_cast<std::ptrdiff_t>(begin);
        return std::accumulate(first, first + window, 0.0);
      };
      EXPECT_NEAR(sum_of(actual), sum_of(wide), 0.01 * sum_of(wide)) << "steps from " << begin + 1;
    }
  };
  ASSERT_EQ(train_here(config("wide", steps)), RunEnd::finished);
  ASSERT_EQ(train_here(narrow("straight", steps)), RunEnd::finished);
  const std::vector<double> wide = losses_of(path("wide")), straight = losses_of(path("straight"));
  ASSERT_EQ(straight.size(), steps);
  expect_near(straight, wide);
  EXPECT_NE(straight, wide);
  Config first = narrow("resumed", steps);
  first.train.stop_after = 33;
  ASSERT_EQ(train_here(first), RunEnd::stopped);
  ASSERT_EQ(train_here(narrow("resumed", steps)), RunEnd::finished);
  EXPECT_EQ(losses_of(path("resumed")), straight);
  for (const Layout layout : {Layout{2, 1}, Layout{2, 2}}) {
    const std::string run = "expert-" + std::to_string(layout.expert_parallel);
    Config shared = narrow(run, steps);
    shared.train.stop_after = window;
    ASSERT_EQ(train_here(shared, layout), RunEnd::stopped);
    ASSERT_EQ(losses_of(path(run)).size(), window);
    expect_near(losses_of(path(run)), wide);
  }
}

TEST_P(TrainerDevices, ACheckpointGoesOnAnywhere) {
  Config begun = config("run", 12);
  begun.train.stop_after = 6;
  ASSERT_EQ(train_here(begun), RunEnd::stopped);
  Config gone_on = config("run", 12);
  ASSERT_EQ(train_on_cpu(gone_on), RunEnd::finished);
  ASSERT_EQ(train_on_cpu(config("reference", 12)), RunEnd::finished);
  const std::vector<double> reference = losses_of(path("reference")), run = losses_of(path("run"));
  ASSERT_EQ(run.size(), reference.size());
  const double tolerance = dtype() == DType::bf16 ? 0.02 : 1e-5;
  for (std::size_t i = 0; i < run.size(); ++i) {
    EXPECT_NEAR(run[i], reference[i], tolerance * reference[i]) << "step " << i + 1;
  }
}

TEST_P(TrainerDevices, DocumentsGiveTheCourseOfTheCpu) {
  for (const Packing packing : {Packing::stream, Packing::documents}) {
    const std::string name = packing == Packing::stream ? "stream" : "packed";
    const auto kept_apart = [&](const std::string& run) {
      Config settings = config(run, 12);
      settings.data.documents = Documents::mask;
      settings.data.packing = packing;
      settings.train.valid_every = 12;
      settings.data.valid = {{.path = path("valid").string(), .weight = 1.0}};
      return settings;
    };
    ASSERT_EQ(train_on_cpu(kept_apart("cpu-" + name)), RunEnd::finished);
    ASSERT_EQ(train_here(kept_apart("here-" + name)), RunEnd::finished);
    const std::vector<Json> expected = metrics_of(path("cpu-" + name)),
                            actual = metrics_of(path("here-" + name));
    ASSERT_EQ(actual.size(), expected.size());
    const double tolerance = dtype() == DType::bf16 ? 0.02 : 1e-5;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double loss = expected[i].at("loss").as_number();
      EXPECT_NEAR(actual[i].at("loss").as_number(), loss, tolerance * loss)
          << name << " step " << i + 1;
      EXPECT_EQ(actual[i].at("tokens").as_integer(), expected[i].at("tokens").as_integer());
    }
    const double valid = expected.back().at("valid_loss").as_number();
    EXPECT_NEAR(actual.back().at("valid_loss").as_number(), valid, tolerance * valid);
  }
}

TEST_P(TrainerDevices, RanksThatShareOneTakeTheSameCourse) {
  // Of a seed whose first 20 steps have no two experts so close that rounding chooses between them.
  const auto seeded = [&](const std::string& run) {
    Config settings = config(run, 20);
    settings.train.seed = 1;
    return settings;
  };
  ASSERT_EQ(train_here(seeded("one")), RunEnd::finished);
  const std::vector<double> expected = losses_of(path("one"));
  for (const Layout layout : {Layout{2, 1}, Layout{2, 2}}) {
    const std::string run = "expert-" + std::to_string(layout.expert_parallel);
    Config settings = seeded(run);
    settings.train.valid_every = 10;
    settings.data.valid = {{.path = path("valid").string(), .weight = 1.0}};
    ASSERT_EQ(train_here(settings, layout), RunEnd::finished);
    const std::vector<double> losses = losses_of(path(run));
    ASSERT_EQ(losses.size(), expected.size());
    const double tolerance = dtype() == DType::bf16 ? 0.02 : 1e-5;
    for (std::size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NEAR(losses[i], expected[i], tolerance * expected[i]) << run << " step " << i + 1;
    }
  }
}

}  // namespace
}  // namespace polymoe
