// SPDX-License-Identifier: Apache-2.0
// Runs whose values go wrong: what is skipped, named, kept and told.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <set>

#include "launch/machine/exit_code.h"
#include "launch/training/trainer.h"
#include "parallel/communication/device_world.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::Layout;

/// Called by each rank before each step.
using Disturb = std::function<void(std::int64_t step, int rank, const ParameterStore&)>;

/// The first one whose name begins with `part`, or has it somewhere where that begins with a point.
const Parameter& parameter(const ParameterStore& store, const std::string& part) {
  for (const Parameter& one : store.parameters())
    if (one.logical[0].name.starts_with(part) ||
        (part[0] == '.' && one.logical[0].name.find(part) != std::string::npos))
      return one;
  throw InvalidArgument("no parameter " + part);
}

void scale(const ParameterStore& store, const std::string& part, float factor) {
  const Tensor& value = parameter(store, part).value;
  for (std::int64_t i = 0; i < value.elements(); ++i) value.data<float>()[i] *= factor;
}

void undisturbed(std::int64_t, int, const ParameterStore&) {}

class DisturbedTrainingTest : public testing::Test {
 protected:
  DisturbedTrainingTest() { test::write_tokens(directory_.path() / "tokens", 4000, 64, 1); }

  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }
  Config config(const std::string& run) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    return config;
  }
  std::set<std::string> checkpoints(const std::string& run) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path(run) / "checkpoints"))
      if (entry.is_directory()) names.insert(entry.path().filename());
    return names;
  }

  static RunEnd train(Config config, Layout layout, const Disturb& disturb) {
    config.parallel.expert = layout.expert_parallel;
    RunEnd end = RunEnd::finished;
    run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
      const int rank = world->rank();
      const Trainer* running = nullptr;
      ProcessMesh mesh(std::move(world), layout.expert_parallel);
      Trainer trainer(
          config, mesh,
          {.device = Device::cpu(),
           .step_begins = [&](std::int64_t step) { disturb(step, rank, running->parameters()); },
           .environment = "{}\n",
           .rate_extent = 64});
      running = &trainer;
      const RunEnd own = trainer.run();
      if (rank == 0) end = own;
      mesh.shutdown();
    });
    return end;
  }

  test::TemporaryDirectory directory_;
};

TEST_F(DisturbedTrainingTest, AStepThatIsNotFiniteIsSkippedByAllRanks) {
  Config settings = config("run");
  settings.train.steps = 8;
  float kept = 0.0F;
  std::vector<std::vector<float>> values;  // of rank 0 before each step
  EXPECT_EQ(train(settings, {.ranks = 2, .expert_parallel = 2},
                  [&](std::int64_t step, int rank, const ParameterStore& store) {
                    if (rank == 0) {
                      const Tensor& all = store.values(ParameterScope::dense);
                      values.emplace_back(all.data<float>(), all.data<float>() + all.elements());
                      return;
                    }
                    float& one = parameter(store, "layers.1.").value.data<float>()[0];
                    if (step == 4) kept = std::exchange(one, std::nanf(""));
                    if (step == 5) one = kept;
                  }),
            RunEnd::finished);
  const auto rows = test::metrics_of(path("run"));
  ASSERT_EQ(rows.size(), 8U);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].at("loss").is_null(), i == 3) << i;
    EXPECT_EQ(rows[i].at("skipped_steps").as_integer(), i < 3 ? 0 : 1) << i;
    const bool same = i > 0 && values[i] == values[i - 1];
    EXPECT_EQ(same, i == 4) << i;
  }
}

TEST_F(DisturbedTrainingTest, TooManyEndTheRunAndNameWhereTheyBegan) {
  Config settings = config("run");
  settings.train.max_skipped = 3;
  settings.checkpoint.every = 1;
  settings.checkpoint.keep = 1;
  std::string name;
  const std::string message = test::message_of<NotFiniteError>([&] {
    train(settings, {.ranks = 2, .expert_parallel = 2},
          [&](std::int64_t step, int rank, const ParameterStore& store) {
            if (step != 4 || rank != 1) return;
            const Parameter& one = parameter(store, "layers.1.");
            name = one.logical[0].name;
            one.value.data<float>()[0] = std::nanf("");
          });
  });
  for (const std::string& part :
       {std::string("step 6 is not applied"), std::string("3 in a row (train.max_skipped = 3)"),
        "weights: first not finite in " + name + " (rank 1), in 1 of ",
        std::string("activations: first not finite in layers.1."),
        std::string("gradients: first not finite in "), std::string("checkpoint is of step 3")})
    EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
  EXPECT_EQ(test::metrics_of(path("run")).size(), 5U);
  EXPECT_EQ(checkpoints("run"), (std::set<std::string>{"step-00000002", "step-00000003"}));
}

TEST_F(DisturbedTrainingTest, ScoresOfWhatIsNotFiniteAreNoneAndTheRunEndsByItsRule) {
  test::write_bytes(path("choose.jsonl"), R"({"context":"ab","choices":["cd","x"],"gold":0})");
  test::write_bytes(path("say.jsonl"), R"({"context":"ab","until":["."],"gold":"c"})");
  for (const std::string task : {"choose", "say"}) {
    Config settings = config(task);
    settings.model.vocab = 300;
    settings.train.max_skipped = 3;
    settings.eval = {.tasks = {path(task + ".jsonl").string()}, .every = 2, .tokenizer = "bytes"};
    const std::string message = test::message_of<NotFiniteError>([&] {
      train(settings, {.ranks = 2, .expert_parallel = 2},
            [&](std::int64_t step, int, const ParameterStore& store) {
              if (step == 4) parameter(store, "layers.1.").value.data<float>()[0] = std::nanf("");
            });
    });
    EXPECT_NE(message.find("3 in a row (train.max_skipped = 3)"), std::string::npos) << message;
    const auto rows = test::metrics_of(path(task));
    ASSERT_EQ(rows.size(), 5U);
    const std::string key = "eval/" + task + (task == "say" ? "/exact_match" : "/acc");
    EXPECT_NE(rows[1].find(key), nullptr) << task;
    EXPECT_EQ(rows[3].find(key), nullptr) << task;
  }
}

TEST_F(DisturbedTrainingTest, ARunThatDivergesKeepsACheckpointFromBefore) {
  Config settings = config("run");
  settings.train.steps = 60;
  settings.checkpoint.every = 1;
  settings.checkpoint.keep = 1;
  const auto disturb = [&](std::int64_t step, int, const ParameterStore& store) {
    if (step == 30) scale(store, "output.weight", -30.0F);
  };
  settings.train.stop_after = 36;
  EXPECT_EQ(train(settings, {.ranks = 2}, disturb), RunEnd::stopped);
  const std::set<std::string> expected = {"step-00000028", "step-00000036"};
  EXPECT_EQ(checkpoints("run"), expected);
  settings.train.stop_after = 1;  // a resumed run knows it still
  EXPECT_EQ(train(settings, {.ranks = 2}, disturb), RunEnd::stopped);
  EXPECT_EQ(checkpoints("run"), (std::set<std::string>{"step-00000028", "step-00000037"}));

  settings = config("sound");
  settings.train.steps = 4;
  settings.checkpoint.every = 1;
  settings.checkpoint.keep = 1;
  EXPECT_EQ(train(settings, {.ranks = 1}, undisturbed), RunEnd::finished);
  EXPECT_EQ(checkpoints("sound"), std::set<std::string>{"step-00000004"});
}

class SpikeTest : public DisturbedTrainingTest {
 protected:
  Config spiky(const std::string& run, SpikeAction action) const {
    Config settings = config(run);
    settings.train.steps = 18;
    settings.train.spike = action;
    settings.train.spike_window = 8;
    settings.train.spike_z = 20.0;
    settings.checkpoint.keep = 0;
    return settings;
  }
  /// A step 14 of large gradients. Powers of two, so that the weights come back to the bit.
  static void disturb(std::int64_t step, int, const ParameterStore& store) {
    if (step == 14) scale(store, "output.weight", 64.0F);
    if (step == 15) scale(store, "output.weight", 1.0F / 64.0F);
  }
  std::string rows(const std::string& run) const {
    std::string text;
    for (const Json& row : test::metrics_of(path(run))) text += test::without_times(row) + "\n";
    return text;
  }
};

TEST_F(SpikeTest, ASpikeIsSkippedAndAResumedRunTakesTheSameCourse) {
  const Layout layout{.ranks = 2, .expert_parallel = 2};
  EXPECT_EQ(train(spiky("straight", SpikeAction::skip), layout, disturb), RunEnd::finished);
  const auto straight = test::metrics_of(path("straight"));
  for (std::size_t i = 0; i < straight.size(); ++i)
    EXPECT_EQ(straight[i].at("skipped_steps").as_integer(), i < 13 ? 0 : 1) << i;
  EXPECT_GT(straight[13].at("grad_norm_z").as_number(), 20.0);
  EXPECT_EQ(straight[7].find("grad_norm_z"), nullptr);

  // The disturbance is of memory, not of the checkpoint: a run does not stop within it.
  Config settings = spiky("resumed", SpikeAction::skip);
  settings.train.stop_after = 12;
  EXPECT_EQ(train(settings, layout, disturb), RunEnd::stopped);
  settings.train.stop_after = 4;
  EXPECT_EQ(train(settings, layout, disturb), RunEnd::stopped);
  settings.train.stop_after = 0;
  EXPECT_EQ(train(settings, layout, disturb), RunEnd::finished);
  EXPECT_EQ(rows("resumed"), rows("straight"));
  EXPECT_EQ(test::checkpoint_contents(path("resumed/checkpoints/step-00000018")),
            test::checkpoint_contents(path("straight/checkpoints/step-00000018")));
}

TEST_F(SpikeTest, ASpikeIsClippedToTheMeanNorm) {
  std::vector<float> before, after;
  const auto watch = [&](std::int64_t step, int rank, const ParameterStore& store) {
    const Tensor& value = parameter(store, "layers.0.").value;
    if (step == 14) before.assign(value.data<float>(), value.data<float>() + value.elements());
    if (step == 15) after.assign(value.data<float>(), value.data<float>() + value.elements());
    disturb(step, rank, store);
  };
  EXPECT_EQ(train(spiky("clip", SpikeAction::clip), {.ranks = 1}, watch), RunEnd::finished);
  const auto rows = test::metrics_of(path("clip"));
  EXPECT_GT(rows[13].at("grad_norm_z").as_number(), 20.0);
  EXPECT_EQ(rows[17].at("skipped_steps").as_integer(), 0);
  EXPECT_NE(before, after);
}

TEST_F(DisturbedTrainingTest, AReplicaThatDiffersIsNamed) {
  Config settings = config("run");
  settings.train.steps = 6;
  settings.train.micro_batch = 0;
  settings.train.check_replicas = 1;
  EXPECT_EQ(train(settings, {.ranks = 4, .expert_parallel = 2}, undisturbed), RunEnd::finished);

  settings.train.check_replicas = 3;
  const auto message_of_flip = [&](const std::string& run, Layout layout, int flipped,
                                   const std::string& part, std::string& name) {
    settings.run.dir = path(run).string();
    try {
      train(settings, layout, [&](std::int64_t step, int rank, const ParameterStore& store) {
        if (step != 3 || rank != flipped) return;
        const Parameter& one = parameter(store, part);
        name = one.logical.back().name;
        // The lowest bit of the last element.
        float& value = one.value.data<float>()[one.value.elements() - 1];
        value = std::nextafter(value, 2.0F);
      });
    } catch (const Error& error) {
      EXPECT_EQ(exit_code_of(error), exit_internal);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  std::string name;
  std::string message = message_of_flip("dense", {.ranks = 3}, 1, "embedding", name);
  EXPECT_NE(message.find("rank 1 holds other values of " + name + " than rank 0, 2"),
            std::string::npos)
      << message;
  message = message_of_flip("experts", {.ranks = 4, .expert_parallel = 2}, 3, ".experts.", name);
  EXPECT_NE(message.find("ranks 1, 3 hold different values of " + name), std::string::npos)
      << message;
  EXPECT_EQ(test::metrics_of(path("experts")).size(), 2U);
}

}  // namespace
}  // namespace polymoe
