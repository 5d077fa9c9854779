// SPDX-License-Identifier: Apache-2.0
// A store of bf16 values beside f32 gradients and the lower bits of f32 masters: what it holds at
// any time is the rounded copy of what a store of f32 values holds, and the masters are those
// values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/random_normal/random_normal.h"
#include "kernels/split_float/split_float.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/parameters/gradient_reducer.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/execution.h"
#include "runtime/float16.h"
#include "support/compare.h"
#include "support/random_tensor.h"
#include "tests/parallel/parameters/toy_parameters.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

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
  split_floats(exact, *result, {}, stream);
  return result;
}

float value_of(const TensorPiece& piece, std::int64_t i) {
  if (!piece.low.defined()) return piece.data.data<float>()[i];
  return join_float(
      {static_cast<const std::uint16_t*>(piece.data.raw())[i], piece.low.data<std::uint16_t>()[i]});
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
        values[key(piece, i)] = value_of(piece, i);
    std::size_t compared = 0;
    for (const TensorPiece& piece : narrow.optimizer.pieces_to_save()) {
      ASSERT_EQ(piece.held().dtype(), DType::f32) << piece.name;
      for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
        // A rank may own another slice of a parameter whose scope is another.
        const auto found = values.find(key(piece, i));
        if (found == values.end()) continue;
        EXPECT_EQ(value_of(piece, i), found->second) << found->first;
        ++compared;
      }
    }
    EXPECT_GT(compared, 0U);
    mesh.shutdown();
  });
}

/// Everything a checkpoint holds, by name, read as f32 by one rank.
std::map<std::string, std::vector<float>> contents_of(const std::filesystem::path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  std::map<std::string, std::vector<float>> contents;
  for (const auto& tensor : reader.manifest().tensors) {
    std::vector<float>& values = contents[tensor.name];
    values.resize(static_cast<std::size_t>(tensor.shape.elements()));
    reader.read({{tensor.name, tensor.shape, 0,
                  Tensor(values.data(), tensor.shape, DType::f32, Device::cpu())}});
  }
  return contents;
}

TEST_P(RoundedValues, MastersGoOnToTheBitInAnyLayoutAndInF32) {
  const test::TemporaryDirectory directory;
  const auto on_ranks = [](Layout layout, const auto& body) {
    run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
      ProcessMesh mesh(std::move(world), layout.expert_parallel);
      Execution execution(
          {.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
      body(mesh, execution.context());
      mesh.shutdown();
    });
  };
  const auto save = [&](std::int64_t step, const Replica& replica, ProcessMesh& mesh) {
    save_checkpoint(directory.path(),
                    {.step = step, .config = "[model]\nlayers = 2\n", .state = "{}"},
                    replica.optimizer.pieces_to_save(), mesh.world());
  };
  on_ranks(GetParam(), [&](ProcessMesh& mesh, ExecutionContext& context) {
    Replica begun(mesh, DType::bf16, {}, context.stream);
    for (int step = 0; step < 3; ++step) begun.step(step, context, mesh.world());
    save(1, begun, mesh);
  });
  const auto saved = contents_of(directory.path() / checkpoint_name(1));
  EXPECT_GT(saved.size(), 10U);
  std::int64_t next = 2;
  for (const Layout layout : {Layout{1, 1}, Layout{2, 2}, Layout{4, 1}}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      const std::int64_t step = next++;
      on_ranks(layout, [&](ProcessMesh& mesh, ExecutionContext& context) {
        Replica resumed(mesh, dtype, {}, context.stream);
        const CheckpointReader reader(directory.path() / checkpoint_name(1), mesh.world());
        reader.read(resumed.optimizer.pieces_to_load(true));
        // Every rank has the values of all, its own and those whose masters another one keeps.
        for (const TensorPiece& piece : value_pieces(resumed.store)) {
          const std::vector<float>& exact = saved.at(piece.name);
          for (std::int64_t i = 0; i < piece.data.elements() && dtype == DType::bf16; ++i) {
            if (piece.data.dtype() != DType::bf16) continue;
            ASSERT_EQ(static_cast<const std::uint16_t*>(piece.data.raw())[i],
                      split_float(exact[static_cast<std::size_t>(piece.begin + i)]).high);
          }
        }
        save(step, resumed, mesh);
      });
      EXPECT_EQ(contents_of(directory.path() / checkpoint_name(step)), saved);
    }
  }
}

TEST(RoundedMoments, MastersTakeTwoBytesBesideTheValues) {
  run_ranks(1, [](std::unique_ptr<Communicator> world) {
    ProcessMesh mesh(std::move(world), 1);
    Stream stream(Device::cpu());
    const Replica exact(mesh, DType::f32, {}, stream), narrow(mesh, DType::bf16, {}, stream);
    std::size_t bytes = 0;
    for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert})
      bytes += narrow.store.values(scope).bytes();
    std::size_t padding = 0;  // of the scopes that f32 does without
    for (const ParameterScope scope : {ParameterScope::dense_wide, ParameterScope::expert_wide})
      padding += narrow.store.values(scope).bytes();
    EXPECT_NEAR(static_cast<double>(narrow.optimizer.bytes()),
                static_cast<double>(exact.optimizer.bytes() + bytes),
                static_cast<double>(2 * padding));
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
