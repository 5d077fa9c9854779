// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/warm_up.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/evaluation/likelihood.h"
#include "launch/inference/answering_model.h"
#include "launch/step/memory_plan.h"
#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "runtime/execution.h"
#include "tests/launch/random_model.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

class WarmUpTest : public testing::Test {
 protected:
  ModelConfig model() const { return test::tiny_config(directory_.path()).model; }

  test::TemporaryDirectory directory_;
};

TEST_F(WarmUpTest, LeavesAnswersToTheBit) {
  const PassLimits limits{.tokens = 300, .places = 2400};
  const auto answers = [&](bool warm) {
    test::RandomModel random(model(), std::move(make_local_communicators(1)[0]), 1);
    if (warm) warm_up(random.model, limits, random.context);
    EXPECT_EQ(random.context.arena.mark(), 0U);
    std::vector<LikelihoodRequest> requests;
    for (std::int32_t i = 0; i < 9; ++i)
      requests.push_back({.tokens = {1, 2, 3, i, 5}, .predicted = 2, .group = i});
    return log_likelihoods({.model = random.model,
                            .mesh = random.mesh,
                            .context = random.context,
                            .dtype = DType::f32,
                            .limits = limits},
                           requests, {})
        .value()
        .values;
  };
  EXPECT_EQ(answers(true), answers(false));
}

TEST_F(WarmUpTest, HasRoomInTheMemoryOfPasses) {
  Config config;
  config.model = model();
  config.train.precision = Precision::f32;
  for (const std::int64_t tokens : {1, 33, 5000}) {
    const PassLimits limits{.tokens = tokens, .places = 8 * tokens};
    const ProcessMesh mesh(make_planning_world(0, 1, 1), 1);
    const InferenceMemory planned =
        plan_inference(config, mesh, DeviceType::cuda, {.limits = limits});
    ParameterStore store(mesh);
    LanguageModel alone(config.model, mesh, store);
    store.allocate(DType::f32, Device::meta(DeviceType::cuda));
    Execution execution({.device = Device::meta(DeviceType::cuda)});
    warm_up(alone, limits, execution.context());
    EXPECT_GT(execution.arena().high_water(), 0U);
    EXPECT_LE(execution.arena().high_water(), planned.activations) << tokens;
  }
}

}  // namespace
}  // namespace polymoe
