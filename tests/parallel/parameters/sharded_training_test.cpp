// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "parallel/parameters/gradient_reducer.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "tests/parallel/parameters/sharded_training_checks.h"
#include "tests/parallel/parameters/toy_parameters.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

class ShardedTraining : public testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(ShardedTraining, EqualsPlainLoopsOnOneRank) {
  const auto [ranks, expert_parallel] = GetParam();
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    test::check_sharded_training(std::move(world), expert_parallel);
  });
}

TEST_P(ShardedTraining, NormCountsEachParameterOnce) {
  const auto [ranks, expert_parallel] = GetParam();
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    test::check_norm_counts_each_parameter_once(std::move(world), expert_parallel);
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, ShardedTraining,
                         testing::Values(std::tuple(1, 1), std::tuple(2, 1), std::tuple(2, 2),
                                         std::tuple(4, 1), std::tuple(4, 2), std::tuple(4, 4)),
                         [](const auto& test) {
                           return "ranks_" + std::to_string(std::get<0>(test.param)) + "_expert_" +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST(GradientReducer, WantsEverySegmentOnceAStep) {
  ProcessMesh mesh(std::move(make_local_communicators(1).front()), 1);
  ParameterStore store(mesh);
  test::declare_toy_parameters(store, mesh);
  store.allocate(DType::f32, Device::cpu());
  Stream stream(Device::cpu());
  GradientReducer reducer(store);
  for (int step = 0; step < 2; ++step) {
    for (int segment = 0; segment + 1 < store.segments(); ++segment) {
      reducer.start(segment, stream);
    }
    EXPECT_THROW(reducer.finish(stream), InvalidArgument);
    EXPECT_THROW(reducer.start(0, stream), InvalidArgument);
    EXPECT_THROW(reducer.start(store.segments(), stream), InvalidArgument);
    EXPECT_THROW(reducer.start(-1, stream), InvalidArgument);
    reducer.start(store.segments() - 1, stream);
    EXPECT_NO_THROW(reducer.finish(stream));
  }
}

TEST(ShardedOptimizer, RunsOnTheMetaDeviceWithTheSameMemory) {
  std::vector<std::size_t> high_water;
  for (const Device device : {Device::cpu(), Device::meta()}) {
    auto world = device == Device::cpu() ? std::move(make_local_communicators(1).front())
                                         : make_planning_world(0, 1, 1);
    ProcessMesh mesh(std::move(world), 1);
    ParameterStore store(mesh);
    test::declare_toy_parameters(store, mesh);
    store.allocate(DType::f32, device);
    Execution execution({.device = device, .capacity = std::size_t{1} << 20});
    ExecutionContext& context = execution.context();
    ShardedOptimizer optimizer(store, {});
    EXPECT_EQ(optimizer.gradient_norm(mesh.world(), context), 0.0);
    optimizer.step(0.1, 1.0, context);
    high_water.push_back(context.arena.high_water());
  }
  EXPECT_GT(high_water[0], 0u);
  EXPECT_EQ(high_water[0], high_water[1]);
}

}  // namespace
}  // namespace polymoe
