// SPDX-License-Identifier: Apache-2.0
// A store of bf16 values beside f32 gradients and masters: what it holds at any time is the rounded
// copy of what a store of f32 values holds.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "kernels/convert/convert.h"
#include "kernels/random_normal/random_normal.h"
#include "parallel/parameters/gradient_reducer.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/execution.h"
#include "support/compare.h"
#include "support/random_tensor.h"
#include "tests/parallel/parameters/toy_parameters.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

struct Layout {
  int ranks, expert_parallel;
};

struct Replica {
  Replica(const ProcessMesh& mesh, DType dtype, const AdamWOptions& options, Stream& stream)
      : store(mesh), optimizer(allocated(mesh, dtype), options) {
    optimizer.initialize(3, stream);
  }
  ParameterStore& allocated(const ProcessMesh& mesh, DType dtype) {
    test::declare_toy_parameters(store, mesh);
    store.allocate(dtype, Device::cpu());
    return store;
  }
  void step(int number, ExecutionContext& context, Communicator& world) {
    store.zero_gradients(context.stream);
    for (const Parameter& parameter : store.parameters()) {
      ASSERT_EQ(parameter.gradient.dtype(), DType::f32);
      const std::string name = parameter.logical.front().name + std::to_string(number);
      random_normal(RandomStream(7, name), {}, parameter.gradient, context.stream);
    }
    GradientReducer reducer(store);
    for (int segment = store.segments() - 1; segment >= 0; --segment)
      reducer.start(segment, context.stream);
    reducer.finish(context.stream);
    norm = optimizer.gradient_norm(world, context);
    optimizer.step(1e-2, std::min(1.0, 1.0 / norm), context);
  }
  ParameterStore store;
  ShardedOptimizer optimizer;
  double norm = 0.0;
};

class RoundedValues : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, RoundedValues,
                         testing::Values(Layout{1, 1}, Layout{2, 1}, Layout{2, 2}, Layout{4, 2}),
                         [](const auto& test) {
                           return std::to_string(test.param.ranks) + "_expert_" +
                                  std::to_string(test.param.expert_parallel);
                         });

OwnedTensor rounded(const Tensor& exact, Stream& stream) {
  OwnedTensor result(exact.shape(), DType::bf16, Device::cpu());
  convert(exact, *result, stream);
  return result;
}

TEST_P(RoundedValues, AreTheCopyOfAnF32Run) {
  run_ranks(GetParam().ranks, [](std::unique_ptr<Communicator> world) {
    ProcessMesh mesh(std::move(world), GetParam().expert_parallel);
    Execution execution(
        {.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
    ExecutionContext& context = execution.context();
    Stream& stream = context.stream;
    Replica exact(mesh, DType::f32, {}, stream), narrow(mesh, DType::bf16, {}, stream);
    for (int step = 0; step < 4; ++step) {
      auto other = exact.store.parameters().begin();
      int wide = 0;
      for (const Parameter& parameter : narrow.store.parameters()) {
        const std::string& name = parameter.logical.front().name;
        if (parameter.wide) {
          EXPECT_TRUE(test::bitwise_equal(parameter.value, other->value)) << name;
          ++wide;
        } else {
          EXPECT_TRUE(test::bitwise_equal(parameter.value, *rounded(other->value, stream)))
              << name << " before step " << step;
        }
        ++other;
      }
      EXPECT_GT(wide, 0);
      exact.step(step, context, mesh.world());
      narrow.step(step, context, mesh.world());
      EXPECT_DOUBLE_EQ(narrow.norm, exact.norm);
    }
    // What is saved are the masters, bit for bit what the f32 run saves.
    std::map<std::string, std::vector<double>> saved;
    const auto key = [](const TensorPiece& piece, std::int64_t i) {
      return piece.name + "[" + std::to_string(piece.begin + i) + "]";
    };
    std::map<std::string, double> values;
    for (const TensorPiece& piece : exact.optimizer.pieces_to_save())
      for (std::int64_t i = 0; i < piece.data.elements(); ++i)
        values[key(piece, i)] = piece.data.data<float>()[i];
    std::size_t compared = 0;
    for (const TensorPiece& piece : narrow.optimizer.pieces_to_save()) {
      ASSERT_EQ(piece.data.dtype(), DType::f32) << piece.name;
      for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
        // A rank may own another slice of a parameter whose scope is another.
        const auto found = values.find(key(piece, i));
        if (found == values.end()) continue;
        EXPECT_EQ(piece.data.data<float>()[i], found->second) << found->first;
        ++compared;
      }
    }
    EXPECT_GT(compared, 0U);
    mesh.shutdown();
  });
}

TEST(RoundedMoments, NarrowMomentsTakeHalfTheMemory) {
  run_ranks(1, [](std::unique_ptr<Communicator> world) {
    ProcessMesh mesh(std::move(world), 1);
    Stream stream(Device::cpu());
    const Replica wide(mesh, DType::bf16, {}, stream);
    const Replica narrow(mesh, DType::bf16, {.moment_dtype = DType::bf16}, stream);
    std::size_t elements = 0;
    for (const ParameterScope scope : all_parameter_scopes)
      elements += static_cast<std::size_t>(wide.store.values(scope).elements());
    EXPECT_EQ(wide.optimizer.bytes() - narrow.optimizer.bytes(), 4 * elements);
    mesh.shutdown();
  });
}

}  // namespace
}  // namespace polymoe
