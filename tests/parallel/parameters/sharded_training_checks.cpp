// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/parameters/sharded_training_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "parallel/checkpoint/names.h"
#include "parallel/communication/local/local_communicator.h"
#include "parallel/parameters/gradient_reducer.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/execution.h"
#include "runtime/random.h"
#include "tests/parallel/parameters/toy_parameters.h"

namespace polymoe::test {
namespace {

constexpr int tokens = 8;  // of the global batch, spread evenly over the ranks
constexpr int steps = 5;
constexpr double clip = 20.0;
constexpr AdamWOptions options{};

double learning_rate(int step) { return 0.01 / (1 + step); }

/// d(loss of one token) / d(element): of very different sizes from tensor to tensor.
double token_gradient(const std::string& name, std::int64_t index, int token, int step) {
  const RandomStream random(1, name);
  const auto element = static_cast<std::uint64_t>(index);
  const auto draw = static_cast<std::uint64_t>(step * tokens + token);
  return random.normal(element * 1000 + draw) * (1.0 + static_cast<double>(name.size() % 5));
}

/// Trains alike tensor by tensor, each of them whole.
class Reference {
 public:
  struct State {
    bool decay;
    std::vector<double> value, gradient;
    std::array<std::vector<double>, optimizer_state_kinds.size()> kept;
  };

  explicit Reference(const ParameterStore& store) {
    for (const Parameter& parameter : store.parameters()) {
      const double* values = parameter.value.data<double>();
      for (const LogicalTensor& tensor : parameter.logical) {
        const auto count = static_cast<std::size_t>(tensor.shape.elements());
        states_[tensor.name] = {.decay = parameter.decay,
                                .value = std::vector<double>(values, values + count),
                                .gradient = std::vector<double>(count),
                                .kept = {}};
        for (auto& kept : states_[tensor.name].kept) kept.resize(count);
        values += count;
      }
    }
  }

  /// Returns the gradient norm.
  double step(int step) {
    double squares = 0.0;
    for (auto& [name, state] : states_) {
      for (std::size_t i = 0; i < state.value.size(); ++i) {
        state.gradient[i] = 0.0;
        for (int token = 0; token < tokens; ++token) {
          state.gradient[i] += token_gradient(name, static_cast<std::int64_t>(i), token, step);
        }
        squares += state.gradient[i] * state.gradient[i];
      }
    }
    const double norm = std::sqrt(squares);
    const auto tensor_over = [](std::vector<double>& values) {
      return Tensor(values.data(), {static_cast<std::int64_t>(values.size())}, DType::f64,
                    Device::cpu());
    };
    Stream stream(Device::cpu());
    for (auto& [name, state] : states_) {
      OptimizerState kept;
      std::transform(state.kept.begin(), state.kept.end(), kept.begin(), tensor_over);
      adamw({.learning_rate = learning_rate(step),
             .beta1 = options.beta1,
             .beta2 = options.beta2,
             .epsilon = options.epsilon,
             .weight_decay = state.decay ? options.weight_decay : 0.0,
             .gradient_scale = std::min(1.0, clip / norm),
             .step = step + 1},
            tensor_over(state.gradient), tensor_over(state.value), kept, {}, stream);
    }
    return norm;
  }

  const State& state(const std::string& name) const { return states_.at(name); }

 private:
  std::map<std::string, State> states_;
};

/// A rank's toy model and what a step runs on.
struct Rank {
  Rank(std::unique_ptr<Communicator> world, int expert_parallel)
      : mesh(std::move(world), expert_parallel),
        store(mesh),
        execution({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true}) {
    declare_toy_parameters(store, mesh);
    store.allocate(DType::f64, Device::cpu());
    store.initialize(3, context.stream);
  }

  ProcessMesh mesh;
  ParameterStore store;
  Execution execution;
  ExecutionContext& context = execution.context();
};

/// The sum over the tokens this rank sees: its own for dense parameters, those of its whole expert
/// group for the experts it holds.
void fill_gradients(Rank& rank, int step) {
  const int per_rank = tokens / rank.mesh.world().size();
  const int self = rank.mesh.world().rank();
  const int group_size = rank.mesh.expert_parallel();
  for (const Parameter& parameter : rank.store.parameters()) {
    const bool dense = parameter.scope == ParameterScope::dense;
    const int first = (dense ? self : self / group_size * group_size) * per_rank;
    const int count = dense ? per_rank : per_rank * group_size;
    double* gradient = parameter.gradient.data<double>();
    for (const LogicalTensor& tensor : parameter.logical) {
      for (std::int64_t i = 0; i < tensor.shape.elements(); ++i, ++gradient) {
        for (int token = first; token < first + count; ++token) {
          *gradient += token_gradient(tensor.name, i, token, step);
        }
      }
    }
  }
}

void reduce(Rank& rank, GradientReducer& reducer) {
  for (int segment = rank.store.segments() - 1; segment >= 0; --segment) {
    reducer.start(segment, rank.context.stream);
  }
  reducer.finish(rank.context.stream);
}

void expect_close(const Tensor& actual, const double* expected, const std::string& name) {
  for (std::int64_t i = 0; i < actual.elements(); ++i) {
    ASSERT_NEAR(actual.data<double>()[i], expected[i], 1e-12 * (1.0 + std::abs(expected[i])))
        << name << "[" << i << "]";
  }
}

void expect_pieces(const std::vector<TensorPiece>& pieces, const Reference& reference) {
  for (const TensorPiece& piece : pieces) {
    const std::size_t name = piece.name.find('/') + 1;
    const Reference::State& state = reference.state(piece.name.substr(name));
    const auto kind = std::find(optimizer_state_kinds.begin(), optimizer_state_kinds.end(),
                                piece.name.substr(0, name));
    const std::vector<double>& expected =
        kind == optimizer_state_kinds.end()
            ? state.value
            : state.kept[static_cast<std::size_t>(kind - optimizer_state_kinds.begin())];
    ASSERT_LE(piece.begin + piece.data.elements(), static_cast<std::int64_t>(expected.size()));
    expect_close(piece.data, expected.data() + piece.begin, piece.name);
  }
}

std::int64_t elements_of(const std::vector<TensorPiece>& pieces, std::string_view kind) {
  std::int64_t elements = 0;
  for (const TensorPiece& piece : pieces) {
    if (piece.name.starts_with(kind)) elements += piece.data.elements();
  }
  return elements;
}

}  // namespace

void check_sharded_training(std::unique_ptr<Communicator> world, int expert_parallel) {
  Rank rank(std::move(world), expert_parallel);
  Rank single(std::move(make_local_communicators(1).front()), 1);
  Reference reference(single.store);
  GradientReducer reducer(rank.store);
  ShardedOptimizer optimizer(rank.store, options);
  for (int step = 0; step < steps; ++step) {
    rank.store.zero_gradients(rank.context.stream);
    fill_gradients(rank, step);
    reduce(rank, reducer);
    const double norm = optimizer.gradient_norm(rank.mesh.world(), rank.context);
    const double expected_norm = reference.step(step);
    ASSERT_NEAR(norm, expected_norm, 1e-13 * expected_norm);
    ASSERT_GT(norm, clip);  // so that the update is scaled
    optimizer.step(learning_rate(step), std::min(1.0, clip / norm), rank.context);
    for (const Parameter& parameter : rank.store.parameters()) {
      const std::int64_t count = parameter.logical.front().shape.elements();
      const Tensor tensors =
          parameter.value.view({static_cast<std::int64_t>(parameter.logical.size()), count});
      std::int64_t row = 0;
      for (const LogicalTensor& tensor : parameter.logical) {
        expect_close(tensors.rows(row, row + 1), reference.state(tensor.name).value.data(),
                     tensor.name);
        ++row;
      }
    }
  }
  EXPECT_EQ(optimizer.steps_done(), steps);
  EXPECT_EQ(rank.context.arena.mark(), 0u);

  // What a checkpoint takes: over all ranks each element once, and what a rank reads back.
  const std::vector<TensorPiece> saved = optimizer.pieces_to_save();
  expect_pieces(saved, reference);
  std::vector<std::string_view> kinds(optimizer_state_kinds.begin(), optimizer_state_kinds.end());
  kinds.push_back(parameter_kind);
  for (const std::string_view kind : kinds) {
    std::int64_t elements = elements_of(saved, kind);
    rank.mesh.world().all_reduce({&elements, {1}, DType::i64, Device::cpu()}, Reduction::sum,
                                 rank.context.stream);
    EXPECT_EQ(elements, rank.store.total_elements()) << kind;
  }
  std::int64_t local = 0;
  for (const Parameter& parameter : rank.store.parameters()) local += parameter.shape.elements();
  const std::vector<TensorPiece> all = optimizer.pieces_to_load(true);
  expect_pieces(all, reference);
  const std::vector<TensorPiece> values = optimizer.pieces_to_load(false);
  EXPECT_EQ(elements_of(all, parameter_kind), local);
  EXPECT_EQ(elements_of(values, parameter_kind), local);
  for (const std::string_view kind : optimizer_state_kinds) {
    EXPECT_EQ(elements_of(all, kind), elements_of(saved, kind)) << kind;
    EXPECT_EQ(elements_of(values, kind), 0) << kind;
  }
  rank.mesh.shutdown();
}

void check_norm_counts_each_parameter_once(std::unique_ptr<Communicator> world,
                                           int expert_parallel) {
  Rank rank(std::move(world), expert_parallel);
  for (const Parameter& parameter : rank.store.parameters()) {
    // Whoever holds a parameter contributes its part of the sum 1.
    const double share = 1.0 / rank.store.group(parameter.scope).size();
    std::fill_n(parameter.gradient.data<double>(), parameter.gradient.elements(), share);
  }
  GradientReducer reducer(rank.store);
  reduce(rank, reducer);
  ShardedOptimizer optimizer(rank.store, options);
  EXPECT_DOUBLE_EQ(optimizer.gradient_norm(rank.mesh.world(), rank.context),
                   std::sqrt(static_cast<double>(rank.store.total_elements())));
  rank.mesh.shutdown();
}

}  // namespace polymoe::test
