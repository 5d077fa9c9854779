// SPDX-License-Identifier: Apache-2.0
#include "moe/moe_layer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "moe/moe_layer_run.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"
#include "support/run_ranks.h"

namespace polymoe {
namespace {

using test::all_close;
using test::LayerCase;
using test::LayerLayout;
using test::LayerRank;
using test::LayerResult;
using test::random_tensor;
using test::run_layer;
using test::values_of;

constexpr std::int64_t hidden = 12, length = 6, sequences = 5;

ModelConfig small_config() {
  ModelConfig config;
  config.layers = 2;
  config.hidden = hidden;
  config.heads = 1;
  config.init_std = 0.5;  // routing far from even
  config.moe.experts = 8;
  config.moe.top_k = 3;
  config.moe.expert_ffn = 10;
  config.moe.balance_loss = 0.4;
  config.moe.z_loss = 0.03;
  return config;
}

LayerCase plain() { return {.config = small_config(), .length = length, .bias = {}, .values = {}}; }

/// Everything that can be switched on.
LayerCase rich() {
  LayerCase layer = plain();
  layer.config.moe.router.scores = RouterScores::sigmoid;
  layer.config.moe.router.normalize = true;
  layer.config.moe.coefficients_per_expert = true;
  layer.config.moe.shared_experts = 2;
  layer.config.moe.bias_rate = 0.01;
  layer.bias = {0.1F, -0.2F, 0.3F, 0.0F, 0.05F, -0.05F, 0.2F, -0.1F};
  return layer;
}

LayerLayout one_rank() { return {.ranks = 1, .expert_parallel = 1, .sequences = {{sequences}}}; }

/// Layouts of 2, 4 and 8 ranks, some in nodes of several; with 4, one of them has no sequence, with
/// 8 three.
std::vector<LayerLayout> all_layouts() {
  return {{2, 1, {{3, 2}}},
          {2, 2, {{3, 2}}},
          {4, 1, {{2, 0, 1, 2}}},
          {4, 2, {{2, 0, 1, 2}}},
          {4, 4, {{2, 0, 1, 2}}},
          {2, 2, {{0, 5}}},
          {8, 2, {{1, 0, 1, 1, 0, 1, 0, 1}}},
          {8, 4, {{1, 0, 1, 1, 0, 1, 0, 1}}},
          {8, 8, {{1, 0, 1, 1, 0, 1, 0, 1}}},
          {4, 4, {{2, 0, 1, 2}}, 2},
          {8, 4, {{1, 0, 1, 1, 0, 1, 0, 1}}, 2},
          {8, 8, {{1, 0, 1, 1, 0, 1, 0, 1}}, 2},
          {8, 8, {{1, 0, 1, 1, 0, 1, 0, 1}}, 4}};
}

struct Input {
  OwnedTensor x = random_tensor({sequences * length, hidden}, DType::f64, "x");
  OwnedTensor d_y = random_tensor({sequences * length, hidden}, DType::f64, "d_y");
};

void expect_equal(const LayerResult& actual, const LayerResult& expected, test::Tolerance tolerance,
                  const std::string& what) {
  SCOPED_TRACE(what);
  EXPECT_TRUE(all_close(actual.y, expected.y, tolerance)) << "y";
  EXPECT_TRUE(all_close(actual.d_x, expected.d_x, tolerance)) << "d_x";
  EXPECT_TRUE(all_close({actual.balance, actual.z}, {expected.balance, expected.z}, tolerance));
  EXPECT_EQ(actual.counts, expected.counts);
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (const auto& [name, values] : expected.gradients) {
    EXPECT_TRUE(all_close(actual.gradients.at(name), values, tolerance)) << name;
  }
}

void expect_layout_independent(const LayerCase& layer, const std::string& what) {
  const Input input;
  const LayerResult expected = run_layer(layer, one_rank(), *input.x, *input.d_y);
  for (const LayerLayout& layout : all_layouts()) {
    expect_equal(run_layer(layer, layout, *input.x, *input.d_y), expected, {1e-12, 1e-13},
                 what + ", " + layout.name());
  }
}

TEST(MoeLayerLayouts, GiveTheSameNumbers) {
  expect_layout_independent(plain(), "plain");
  expect_layout_independent(rich(), "rich");
}

TEST(MoeLayerLayouts, GiveTheSameNumbersWithGlobalBalance) {
  LayerCase layer = plain();
  layer.config.moe.balance_scope = BalanceScope::global;
  expect_layout_independent(layer, "global");
}

TEST(MoeLayerLayouts, GiveTheSameNumbersWhenDropping) {
  for (const DropPolicy drop : {DropPolicy::position, DropPolicy::probability}) {
    LayerCase layer = plain();
    layer.config.moe.capacity_factor = 0.8;
    layer.config.moe.drop = drop;
    const Input input;
    EXPECT_GT(run_layer(layer, one_rank(), *input.x, *input.d_y).counts.back(), 0);
    expect_layout_independent(layer, drop == DropPolicy::position ? "position" : "probability");
  }
}

TEST(MoeLayerLayouts, GiveTheSameNumbersWhenExpertsAndRanksStayEmpty) {
  LayerCase layer = rich();
  // All tokens go to experts 2, 3 and 5: with expert parallelism 4, ranks 0 and 3 receive nothing.
  layer.bias = {0.0F, 0.0F, 9.0F, 9.0F, 0.0F, 9.0F, 0.0F, 0.0F};
  const Input input;
  const LayerResult result = run_layer(layer, one_rank(), *input.x, *input.d_y);
  EXPECT_EQ(result.counts, (std::vector<std::int64_t>{0, 0, 30, 30, 0, 30, 0, 0, 0}));
  const std::vector<double>& idle = result.gradients.at("layers.0.experts.7.up.weight");
  EXPECT_EQ(idle, std::vector<double>(idle.size(), 0.0));
  expect_layout_independent(layer, "three experts");
}

TEST(MoeLayerLayouts, GiveTheSameNumbersWhenOneExpertTakesEverything) {
  LayerCase layer = rich();
  layer.config.moe.top_k = 1;
  layer.bias = {0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 9.0F, 0.0F, 0.0F};
  const Input input;
  EXPECT_EQ(run_layer(layer, one_rank(), *input.x, *input.d_y).counts,
            (std::vector<std::int64_t>{0, 0, 0, 0, 0, 30, 0, 0, 0}));
  expect_layout_independent(layer, "one expert");
}

// Sources are worked off in rounds: what comes home has the same bits, and the weights' gradients
// are added up in parts.
TEST(MoeLayerLayouts, GiveTheSameBitsWhenRowsComeInRounds) {
  LayerCase layer = rich();
  layer.bias = {0.0F, 0.0F, 9.0F, 9.0F, 0.0F, 9.0F, 0.0F, 0.0F};
  const Input input;
  for (const LayerLayout& layout : all_layouts()) {
    if (layout.expert_parallel == 1) continue;
    layer.config.moe.row_budget = 1e3;
    const LayerResult at_once = run_layer(layer, layout, *input.x, *input.d_y);
    layer.config.moe.row_budget = 1.0;
    const LayerResult in_rounds = run_layer(layer, layout, *input.x, *input.d_y);
    EXPECT_EQ(at_once.extra_rounds, 0);
    EXPECT_GT(in_rounds.extra_rounds, 0);
    EXPECT_EQ(in_rounds.y, at_once.y);
    EXPECT_EQ(in_rounds.d_x, at_once.d_x);
    expect_equal(in_rounds, at_once, {1e-12, 1e-13}, layout.name());
  }
}

// Balance over a rank's micro-batch depends on the micro-batches, not on who runs them.
TEST(MoeLayerLayouts, RankBalanceIsThatOfTheSameMicroBatches) {
  LayerCase layer = plain();
  layer.config.moe.balance_scope = BalanceScope::rank;
  const Input input;
  const LayerResult expected = run_layer(layer, {1, 1, {{2}, {1}, {1}, {1}}}, *input.x, *input.d_y);
  for (const LayerLayout& layout :
       {LayerLayout{4, 4, {{2, 1, 1, 1}}}, LayerLayout{2, 2, {{2, 1}, {1, 1}}}}) {
    expect_equal(run_layer(layer, layout, *input.x, *input.d_y), expected, {1e-12, 1e-13},
                 std::to_string(layout.ranks));
  }
  const LayerResult whole = run_layer(layer, one_rank(), *input.x, *input.d_y);
  EXPECT_GT(std::abs(whole.balance - expected.balance), 1e-4);
}

// Micro-batches add up: sequence balance, z and all gradients are those of one pass.
TEST(MoeLayerLayouts, MicroBatchesAddUp) {
  const Input input;
  expect_equal(run_layer(rich(), {2, 2, {{1, 1}, {2, 1}}}, *input.x, *input.d_y),
               run_layer(rich(), one_rank(), *input.x, *input.d_y), {1e-12, 1e-13}, "4 parts");
}

TEST(MoeLayerLayouts, AgreeInSinglePrecision) {
  const Input input;
  const OwnedTensor x = test::converted(*input.x, DType::f32);
  const OwnedTensor d_y = test::converted(*input.d_y, DType::f32);
  const LayerResult expected = run_layer(rich(), one_rank(), *input.x, *input.d_y);
  for (const LayerLayout& layout : {one_rank(), LayerLayout{4, 2, {{2, 0, 1, 2}}}}) {
    expect_equal(run_layer(rich(), layout, *x, *d_y), expected, {2e-5, 2e-5},
                 std::to_string(layout.ranks));
  }
}

TEST(MoeLayer, TwoRunsGiveTheSameBits) {
  const Input input;
  LayerCase layer = rich();
  layer.config.moe.capacity_factor = 1.0;
  layer.config.moe.drop = DropPolicy::probability;
  for (const LayerLayout& layout : all_layouts()) {
    const LayerResult first = run_layer(layer, layout, *input.x, *input.d_y);
    const LayerResult second = run_layer(layer, layout, *input.x, *input.d_y);
    EXPECT_EQ(first.y, second.y);
    EXPECT_EQ(first.d_x, second.d_x);
    EXPECT_EQ(first.gradients, second.gradients);
    EXPECT_EQ(first.balance, second.balance);
    EXPECT_EQ(first.z, second.z);
  }
}

class MoeLayerFixture : public ::testing::TestWithParam<std::string> {};

TEST_P(MoeLayerFixture, IsThatOfPyTorch) {
  const test::Fixture fixture("moe_layer.txt");
  const std::string prefix = GetParam() + "/";
  LayerCase layer{.config = small_config(), .length = 5, .bias = {}, .values = {}};
  ModelConfig& config = layer.config;
  config.hidden = fixture.shape(prefix + "x")[1];
  config.moe.experts = 4;
  config.moe.top_k = 2;
  config.moe.expert_ffn = 5;
  config.moe.balance_loss = fixture.scalar("balance_loss");
  config.moe.z_loss = fixture.scalar("z_loss");
  if (GetParam() == "sigmoid") {
    config.moe.router.scores = RouterScores::sigmoid;
    config.moe.router.normalize = true;
    config.moe.coefficients_per_expert = true;
    config.moe.shared_experts = 2;
    config.moe.capacity_factor = 0.8;
    config.moe.drop = DropPolicy::probability;
    config.moe.balance_scope = BalanceScope::rank;
    config.moe.bias_rate = 1.0;
    for (const double value : fixture.values("bias")) {
      layer.bias.push_back(static_cast<float>(value));
    }
  } else if (GetParam() == "swiglu") {
    config.activation.kind = ActivationKind::swiglu;
    config.moe.router.normalize = true;
    config.moe.shared_experts = 2;
    config.moe.capacity_factor = 1.0;
    config.moe.balance_scope = BalanceScope::global;
  }
  const OwnedTensor x = fixture.tensor(prefix + "x", DType::f64);
  const OwnedTensor d_y = fixture.tensor(prefix + "d_y", DType::f64);
  LayerResult result = run_layer(layer, {1, 1, {{3}}}, *x, *d_y);
  for (const auto& [name, gradient] : result.gradients) {
    layer.values[name] = fixture.values(prefix + "value/" + name);
  }
  // Rank balance is that of one micro-batch: one rank only.
  const LayerLayout layout = config.moe.balance_scope == BalanceScope::rank
                                 ? LayerLayout{1, 1, {{3}}}
                                 : LayerLayout{2, 2, {{1, 2}}};
  result = run_layer(layer, layout, *x, *d_y);
  const test::Tolerance tolerance{1e-11, 1e-12};
  const auto expect = [&](const std::vector<double>& actual, const std::string& entry) {
    EXPECT_TRUE(all_close(actual, fixture.values(prefix + entry), tolerance)) << entry;
  };
  expect(result.y, "y");
  expect(result.d_x, "d_x");
  expect({result.balance}, "balance");
  expect({result.z}, "z");
  expect(std::vector<double>(result.counts.begin(), result.counts.end()), "counts");
  for (const auto& [name, gradient] : result.gradients) expect(gradient, "gradient/" + name);
}

INSTANTIATE_TEST_SUITE_P(All, MoeLayerFixture, ::testing::Values("softmax", "sigmoid", "swiglu"),
                         [](const auto& test) { return test.param; });

// The whole loss <d_y, y> + balance + z, by every parameter and the input.
TEST(MoeLayer, GradientsAreCentralDifferences) {
  for (LayerCase layer : {plain(), rich()}) {
    layer.config.moe.capacity_factor = 1.2;
    run_ranks(1, [&](std::unique_ptr<Communicator> world) {
      LayerRank rank(layer, std::move(world), 1, DType::f64);
      const std::int64_t rows = 2 * length;
      const BatchLayout layout{.sequences = 2,
                               .length = length,
                               .global = {.tokens = rows, .sequences = 2, .micro_batches = 1}};
      const OwnedTensor x = random_tensor({rows, hidden}, DType::f64, "x");
      const OwnedTensor d_y = random_tensor({rows, hidden}, DType::f64, "d_y");
      const OwnedTensor y = test::poisoned_tensor({rows, hidden}, DType::f64);
      const OwnedTensor d_x = test::poisoned_tensor({rows, hidden}, DType::f64);
      rank.forward_backward(*x, *d_y, layout, *y, *d_x);
      rank.layer().take_losses(rank.stream());
      const std::vector<std::int64_t> counts = rank.layer().take_counts(rank.stream());

      struct Variable {
        std::string name;
        Tensor value;
        OwnedTensor gradient;
      };
      std::vector<Variable> variables;
      variables.push_back({"x", *x, test::converted(*d_x, DType::f64)});
      for (const Parameter& parameter : rank.store().parameters()) {
        variables.push_back({parameter.logical[0].name, parameter.value,
                             test::converted(parameter.gradient, DType::f64)});
      }
      bool same_routing = true;
      const auto loss = [&] {
        rank.forward_backward(*x, *d_y, layout, *y, *d_x);
        const RouterLosses losses = rank.layer().take_losses(rank.stream());
        same_routing = same_routing && rank.layer().take_counts(rank.stream()) == counts;
        return test::inner_product(*d_y, *y) + losses.balance + losses.z;
      };
      for (const Variable& variable : variables) {
        EXPECT_TRUE(test::gradient_matches(variable.name, variable.value, *variable.gradient, loss,
                                           {.step = 2e-4, .samples = 40}));
      }
      EXPECT_TRUE(same_routing) << "a step changed an expert: choose another seed";
    });
  }
}

TEST(MoeLayer, ForwardAgainChangesNothing) {
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    LayerRank rank(rich(), std::move(world), 1, DType::f64);
    const Input input;
    const BatchLayout layout{
        .sequences = sequences,
        .length = length,
        .global = {.tokens = sequences * length, .sequences = sequences, .micro_batches = 1}};
    OwnedTensor y[2], d_x[2];
    RouterLosses losses[2];
    std::vector<std::int64_t> counts[2];
    for (const int recompute : {0, 1}) {
      y[recompute] = test::poisoned_tensor(input.x->shape(), DType::f64);
      d_x[recompute] = test::poisoned_tensor(input.x->shape(), DType::f64);
      rank.forward_backward(*input.x, *input.d_y, layout, *y[recompute], *d_x[recompute],
                            recompute == 1);
      losses[recompute] = rank.layer().take_losses(rank.stream());
      counts[recompute] = rank.layer().take_counts(rank.stream());
    }
    EXPECT_TRUE(test::bitwise_equal(*y[0], *y[1]));
    EXPECT_TRUE(test::bitwise_equal(*d_x[0], *d_x[1]));
    EXPECT_EQ(losses[0].balance, losses[1].balance);
    EXPECT_EQ(losses[0].z, losses[1].z);
    EXPECT_EQ(counts[0], counts[1]);
    EXPECT_EQ(rank.layer().take_losses(rank.stream()).balance, 0.0);
    EXPECT_EQ(rank.layer().take_counts(rank.stream()), std::vector<std::int64_t>(9, 0));
  });
}

TEST(MoeLayer, BiasMovesAgainstTheLoad) {
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    LayerRank rank(rich(), std::move(world), 1, DType::f64);
    rank.layer().update_bias({4, 4, 4, 0, 8, 4, 3, 5}, rank.stream());
    const std::vector<float> before = rich().bias;
    const std::vector<double> moved = values_of(rank.layer().bias());
    const std::vector<int> signs{0, 0, 0, 1, -1, 0, 1, -1};
    for (std::size_t e = 0; e < 8; ++e) {
      EXPECT_FLOAT_EQ(static_cast<float>(moved[e]),
                      before[e] + 0.01F * static_cast<float>(signs[e]));
    }
  });
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    LayerRank rank(plain(), std::move(world), 1, DType::f64);
    EXPECT_FALSE(rank.layer().bias().defined());
    EXPECT_NO_THROW(rank.layer().update_bias({4, 4, 4, 0, 8, 4, 3, 5}, rank.stream()));
  });
}

// Whatever the router's weights and biases are; of each sequence alike, so under any layout.
TEST(MoeLayer, TakesTheExpertsThatAreMeasured) {
  for (LayerCase layer : {plain(), rich()}) {
    for (const Routing routing : {Routing::balanced, Routing::skewed}) {
      layer.config.moe.routing = routing;
      const Input input;
      std::vector<std::int64_t> counts(9, 0);
      for (const std::int32_t e : measured_choices(routing, "layers.0.router", length, 8, 3)) {
        counts[static_cast<std::size_t>(e)] += sequences;
      }
      EXPECT_EQ(run_layer(layer, one_rank(), *input.x, *input.d_y).counts, counts);
      expect_layout_independent(layer, "measured");
    }
    layer.config.moe.routing = Routing::router;
  }
}

TEST(MoeLayer, RefusesExpertsThatDoNotDivide) {
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    LayerCase layer = plain();
    layer.config.moe.experts = 7;
    try {
      LayerRank rank(layer, std::move(world), 2, DType::f64);
      ADD_FAILURE() << "accepted 7 experts on 2 ranks";
    } catch (const InvalidArgument& error) {
      EXPECT_STREQ(error.what(), "moe.experts = 7 is not a multiple of parallel.expert = 2");
    }
  });
}

// Memory of a pass on the real and on the meta device. Without capacity a rank of its own receives
// exactly its slots; with expert parallelism the plan takes them as even.
TEST(MoeLayerOnMeta, CountsTheMemoryOfTheRealOne) {
  const auto high_water = [](std::unique_ptr<Communicator> world, Device device) {
    LayerRank rank({.config = rich().config, .length = length, .bias = {}, .values = {}},
                   std::move(world), 1, DType::f32, device);
    const Shape shape{sequences * length, hidden};
    const OwnedTensor x(shape, DType::f32, device), d_y(shape, DType::f32, device);
    const OwnedTensor y(shape, DType::f32, device), d_x(shape, DType::f32, device);
    rank.forward_backward(*x, *d_y,
                          {.sequences = sequences,
                           .length = length,
                           .global = {.tokens = 1, .sequences = sequences, .micro_batches = 1}},
                          *y, *d_x);
    return rank.arena().high_water();
  };
  std::size_t real = 0;
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    real = high_water(std::move(world), Device::cpu());
  });
  EXPECT_GT(real, 0u);
  EXPECT_EQ(high_water(make_planning_world(0, 1, 1), Device::meta()), real);

  LayerRank shared(plain(), make_planning_world(1, 4, 2), 2, DType::f32, Device::meta());
  const Shape shape{sequences * length, hidden};
  const OwnedTensor meta(shape, DType::f32, Device::meta());
  EXPECT_NO_THROW(shared.forward_backward(
      *meta, *meta,
      {.sequences = sequences,
       .length = length,
       .global = {.tokens = 1, .sequences = 4 * sequences, .micro_batches = 4}},
      *meta, *meta));
  EXPECT_GT(shared.arena().high_water(), real / 4);
}

// The plan is of ranks with equally many tokens; the most that one has is what it is asked for.
TEST(MoeLayerOnMeta, NoRoutingTakesMoreThanIsPlanned) {
  LayerCase one_pair = rich(), everywhere = rich();
  one_pair.bias = {0.0F, 0.0F, 9.0F, 9.0F, 0.0F, 9.0F, 0.0F, 0.0F};
  everywhere.config.moe.top_k = 8;
  const Input input;
  const OwnedTensor x = test::converted(*input.x, DType::f32);
  const OwnedTensor d_y = test::converted(*input.d_y, DType::f32);
  for (LayerCase layer : {plain(), one_pair, everywhere}) {
    for (const double budget : {1.0, 1.5}) {
      layer.config.moe.row_budget = budget;
      for (const LayerLayout& layout : all_layouts()) {
        if (layout.expert_parallel == 1) continue;
        const auto& shares = layout.sequences[0];
        const std::int64_t most = *std::max_element(shares.begin(), shares.end());
        const LayerCase without_values{
            .config = layer.config, .length = length, .bias = {}, .values = {}};
        LayerRank planned(
            without_values,
            make_planning_world(0, layout.ranks, layout.expert_parallel, layout.node_ranks),
            layout.expert_parallel, DType::f32, Device::meta(), layout.node_ranks);
        const OwnedTensor meta({most * length, hidden}, DType::f32, Device::meta());
        planned.forward_backward(*meta, *meta,
                                 {.sequences = most,
                                  .length = length,
                                  .global = {.tokens = 1, .sequences = most, .micro_batches = 1}},
                                 *meta, *meta);
        EXPECT_LE(run_layer(layer, layout, *x, *d_y).memory, planned.arena().high_water())
            << layout.name();
      }
    }
  }
}

}  // namespace
}  // namespace polymoe
