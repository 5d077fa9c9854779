// SPDX-License-Identifier: Apache-2.0
#include "launch/step/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "launch/config/config.h"
#include "launch/step/arena_size.h"
#include "launch/step/pass_limits.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

Config shipped(const std::string& name, std::vector<std::string> overrides = {}) {
  return read_config(POLYMOE_CONFIGS "/" + name + ".ini", overrides);
}

// The counts of the paper's two models.
struct Model {
  const char* config;
  const char* activation;
  std::int64_t total, active;
};

class PaperModels : public ::testing::TestWithParam<Model> {};

TEST_P(PaperModels, HaveExactlyTheirParameters) {
  const Model& model = GetParam();
  const Config config =
      shipped(model.config, {"--model.activation=" + std::string(model.activation)});
  const MemoryPlan plan = plan_memory(config, {.ranks = 1, .threads = 2});
  EXPECT_EQ(plan.total_parameters, model.total);
  EXPECT_EQ(plan.active_parameters, model.active);
}

INSTANTIATE_TEST_SUITE_P(
    All, PaperModels,
    ::testing::Values(Model{"moe-7b", "swiglu", 6919161856, 1282017280},
                      Model{"moe-7b", "polynorm", 6919161856 + 64, 1282017280 + 64},
                      Model{"moe-7b", "gelu", 6919161856, 1282017280},
                      Model{"dense-1b", "swiglu", 1345423360, 1345423360},
                      Model{"dense-1b", "polynorm", 1345423360 + 96, 1345423360 + 96},
                      Model{"dense-1b", "relu", 1345423360, 1345423360}),
    [](const auto& tested) {
      std::string name = std::string(tested.param.config) + "_" + tested.param.activation;
      name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
      return name;
    });

TEST(PlanTest, EveryShippedConfigurationCanBePlanned) {
  for (const char* name :
       {"bench-dense", "bench-moe", "bench-small-experts", "dense-1b", "moe-7b", "quickstart"}) {
    const Config config = shipped(name);
    const MemoryPlan plan = plan_memory(config, {.ranks = config.parallel.expert, .threads = 1});
    EXPECT_GT(plan.total_parameters, 0) << name;
    EXPECT_LE(plan.active_parameters, plan.total_parameters) << name;
    EXPECT_GT(plan.activations, 0U) << name;
  }
}

// By hand: a model small enough to count.
TEST(PlanTest, MemoryOfOneRankIsFourBytesAParameterFourTimes) {
  const Config config =
      parse_config("", "test",
                   {"--model.layers=2", "--model.hidden=64", "--model.heads=2", "--model.vocab=100",
                    "--model.context=16", "--model.ffn=48", "--model.activation=relu"});
  const MemoryPlan plan = plan_memory(config, {.ranks = 1, .threads = 1});
  const std::int64_t block = 4 * 64 * 64 + 2 * 48 * 64 + 2 * 64;
  EXPECT_EQ(plan.total_parameters, 2 * block + 2 * 100 * 64 + 64);
  const auto bytes = static_cast<std::size_t>(plan.total_parameters) * 4;
  EXPECT_EQ(plan.parameters, bytes);
  EXPECT_EQ(plan.gradients, bytes);
  EXPECT_EQ(plan.optimizer, 2 * bytes);
  EXPECT_EQ(plan.buffers, 0U);
  EXPECT_EQ(plan.rank_total(), 4 * bytes + plan.activations);
}

// Values in bf16, of their masters 16 bits more, gradients and two moments in f32.
TEST(PlanTest, AGpuTakesTwoBytesAParameterForTheMasters) {
  const MemoryPlan plan =
      plan_memory(shipped("moe-7b"), {.ranks = 1, .threads = 1, .backend = DeviceType::cuda});
  const auto parameters = static_cast<double>(plan.total_parameters);
  EXPECT_NEAR(static_cast<double>(plan.parameters), 2.0 * parameters, 1e4);
  EXPECT_NEAR(static_cast<double>(plan.gradients), 4.0 * parameters, 1e4);
  EXPECT_NEAR(static_cast<double>(plan.optimizer), (2.0 + 4.0 + 4.0) * parameters, 1e4);
}

TEST(PlanTest, GradientsInBf16TakeHalfTheMemory) {
  const auto planned = [](std::vector<std::string> overrides) {
    return plan_memory(shipped("moe-7b", std::move(overrides)),
                       {.ranks = 1, .threads = 1, .backend = DeviceType::cuda});
  };
  const MemoryPlan wide = planned({}), narrow = planned({"--optimizer.gradient_dtype=bf16"});
  // Those of the activations' coefficients stay.
  EXPECT_NEAR(static_cast<double>(narrow.gradients), static_cast<double>(wide.gradients) / 2.0,
              1e4);
  EXPECT_EQ(narrow.gradients, narrow.parameters);
  EXPECT_EQ(narrow.optimizer, wide.optimizer);
  // The sum over an output's chunks of rows.
  EXPECT_LE(narrow.activations, wide.activations + std::size_t{50304} * 2048 * 4);
}

TEST(PlanTest, GradientsInBf16AreForWeightsInBf16) {
  const auto refusal = [](DeviceType backend, std::vector<std::string> overrides) {
    overrides.emplace_back("--optimizer.gradient_dtype=bf16");
    return test::message_of<InvalidArgument>([&] {
      plan_memory(shipped("quickstart", overrides), {.ranks = 2, .threads = 1, .backend = backend});
    });
  };
  EXPECT_EQ(refusal(DeviceType::cpu, {}),
            "optimizer.gradient_dtype = bf16: is for train.precision = bf16, on GPUs; must be f32 "
            "with run.device = cpu");
  EXPECT_EQ(refusal(DeviceType::cuda, {}), "");
}

TEST(PlanTest, RanksShareExpertsAndOptimizerState) {
  const Config one = shipped("moe-7b");
  const Config eight = shipped("moe-7b", {"--parallel.expert=8"});
  const MemoryPlan alone = plan_memory(one, {.ranks = 1, .threads = 1}),
                   replicas = plan_memory(one, {.ranks = 8, .threads = 1}),
                   shared = plan_memory(eight, {.ranks = 8, .threads = 1});
  EXPECT_EQ(replicas.total_parameters, alone.total_parameters);
  EXPECT_EQ(shared.total_parameters, alone.total_parameters);
  // The optimizer state is spread over all ranks in either layout; padding aside.
  EXPECT_NEAR(static_cast<double>(replicas.optimizer), static_cast<double>(alone.optimizer) / 8.0,
              1e4);
  EXPECT_NEAR(static_cast<double>(shared.optimizer), static_cast<double>(alone.optimizer) / 8.0,
              1e4);
  // 16 layers of 64 experts of 2 matrices of 1536 x 2048, of which a rank keeps an eighth.
  const double experts = 16.0 * 64 * 2 * 1536 * 2048 * 4;
  EXPECT_NEAR(static_cast<double>(alone.parameters - shared.parameters), experts * 7 / 8, 1e4);
  EXPECT_GT(shared.buffers, 0U);
}

// What `eval` takes of an H200 beside the model.
TEST(PlanTest, ScoringAModelOf7BTakesLessThanTheModel) {
  const Config config = shipped("moe-7b");
  const ProcessMesh alone(std::move(make_local_communicators(1)[0]), 1);
  const PassLimits limits = gpu_pass_limits(config, 32768);
  EXPECT_EQ(limits.tokens, 32768);
  const InferenceMemory memory =
      plan_inference(config, alone, DeviceType::cuda, {.limits = limits});
  EXPECT_NEAR(static_cast<double>(memory.parameters), 2.0 * 6'919'161'920, 0.01e9);
  EXPECT_LT(memory.activations, memory.parameters);
  const InferenceMemory less =
      plan_inference(config, alone, DeviceType::cuda, {.limits = gpu_pass_limits(config, 1)});
  EXPECT_LT(less.activations, memory.activations / 2);
}

// A run's scorings have the memory that was planned for its steps.
TEST(PlanTest, ScoringFitsWhereAStepFits) {
  const ProcessMesh alone(std::move(make_local_communicators(1)[0]), 1);
  const Device gpu{DeviceType::cuda, 0};
  for (const char* name : {"bench-dense", "bench-moe", "bench-small-experts", "dense-1b", "moe-7b"})
    for (const char* recompute : {"none", "activation", "block"}) {
      const Config config =
          shipped(name, {"--train.micro_batch=1", "--train.recompute=" + std::string(recompute)});
      const PassLimits limits = training_pass_limits(config, 1, gpu);
      EXPECT_EQ(limits.tokens, config.model.context);
      EXPECT_LE(
          plan_inference(config, alone, DeviceType::cuda, {.limits = limits}).activations,
          plan_memory(config, {.ranks = 1, .threads = 1, .backend = DeviceType::cuda}).activations)
          << name << ", " << recompute;
    }
}

// They are as large as the room of the steps allows, which is more than a micro-batch.
TEST(PlanTest, ScoringWithinARunFillsTheMemoryOfItsSteps) {
  const ProcessMesh alone(std::move(make_local_communicators(1)[0]), 1);
  const Device gpu{DeviceType::cuda, 0};
  for (const char* name : {"bench-moe", "dense-1b", "moe-7b"})
    for (const char* recompute : {"none", "block"}) {
      const Config config =
          shipped(name, {"--train.micro_batch=4", "--train.recompute=" + std::string(recompute)});
      const std::size_t steps =
          plan_memory(config, {.ranks = 1, .threads = 1, .backend = DeviceType::cuda}).activations;
      const PassLimits least = training_pass_limits(config, 1, gpu);
      const PassLimits limits = run_pass_limits(config, alone, gpu, steps);
      EXPECT_GE(limits.tokens, least.tokens);
      EXPECT_GE(limits.places, 4 * least.places) << name << ", " << recompute;
      EXPECT_LE(plan_inference(config, alone, DeviceType::cuda, {.limits = limits}).activations,
                steps)
          << name << ", " << recompute;
      const PassLimits none = run_pass_limits(config, alone, gpu, 0);
      EXPECT_EQ(none.tokens, least.tokens);
      EXPECT_EQ(none.places, least.places);
    }
  const Config config = shipped("moe-7b", {"--train.micro_batch=4", "--train.recompute=none"});
  const std::size_t h200 = std::size_t{100} << 30;
  EXPECT_EQ(run_pass_limits(config, alone, gpu, h200).tokens, 32768);
  EXPECT_EQ(run_pass_limits(config, alone, gpu, h200).places, 262144);
}

TEST(PlanTest, RecomputingBlocksAndSmallerBatchesTakeLess) {
  const auto planned = [](const char* option) {
    return plan_memory(shipped("bench-moe", {option}), {.ranks = 1, .threads = 1});
  };
  const MemoryPlan keep = planned("--train.recompute=none");
  const MemoryPlan middle = planned("--train.recompute=activation");
  const MemoryPlan again = planned("--train.recompute=block");
  const MemoryPlan small = planned("--train.micro_batch=1");
  EXPECT_LT(middle.activations, keep.activations);
  EXPECT_LT(again.activations, middle.activations);
  EXPECT_LT(small.activations, keep.activations / 2);
  EXPECT_EQ(again.parameters, keep.parameters);
}

TEST(PlanTest, RefusesLayoutsThatDoNotDivide) {
  const Config config = shipped("quickstart");
  const std::string message =
      test::message_of<InvalidArgument>([&] { plan_memory(config, {.ranks = 3, .threads = 1}); });
  EXPECT_NE(message.find("parallel.expert = 2: must be a divisor of the number of ranks (3)"),
            std::string::npos)
      << message;
}

TEST(PlanTest, EveryShippedConfigurationHasABaselineOfEqualParameters) {
  for (const char* name :
       {"bench-dense", "bench-moe", "bench-small-experts", "dense-1b", "moe-7b", "quickstart"}) {
    const auto total = [&](const char* activation) {
      const Config config = shipped(name, {"--model.activation=" + std::string(activation)});
      return plan_memory(config, {.ranks = config.parallel.expert}).total_parameters;
    };
    // Coefficients aside.
    EXPECT_NEAR(static_cast<double>(total("swiglu")), static_cast<double>(total("relu")), 0.5)
        << name;
  }
}

TEST(PlanTest, RowBudgetIsWhatRanksThatExchangeRowsPlanFor) {
  const auto activations = [](const char* ranks, const char* budget) {
    const Config config = shipped("quickstart", {std::string("--parallel.expert=") + ranks,
                                                 std::string("--moe.row_budget=") + budget});
    return plan_memory(config, {.ranks = config.parallel.expert}).activations;
  };
  EXPECT_GT(activations("2", "1.5"), activations("2", "1"));
  EXPECT_LT(activations("2", "1.5"), activations("2", "2"));
  // Alone, a rank has all rows whatever the router does.
  EXPECT_EQ(activations("1", "1.5"), activations("1", "1"));
}

}  // namespace
}  // namespace polymoe
