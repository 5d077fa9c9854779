// SPDX-License-Identifier: Apache-2.0
#include "tests/moe/model_harness.h"
#include "tests/support/run_ranks.h"

namespace polymoe::test {
namespace {

struct Layout {
  int ranks;
  int expert_parallel;
  std::vector<std::int64_t> sequences;  // per rank
  int node_ranks = 1;                   // of an expert group
};

class Layouts : public ::testing::TestWithParam<Layout> {};

INSTANTIATE_TEST_SUITE_P(Ranks, Layouts,
                         ::testing::Values(Layout{2, 1, {2, 2}}, Layout{2, 2, {2, 2}},
                                           Layout{2, 2, {4, 0}}, Layout{4, 1, {1, 1, 1, 1}},
                                           Layout{4, 2, {1, 1, 1, 1}}, Layout{4, 4, {1, 1, 1, 1}},
                                           Layout{4, 4, {0, 3, 0, 1}}, Layout{4, 2, {2, 0, 2, 0}},
                                           Layout{4, 4, {0, 3, 0, 1}, 2}),
                         [](const auto& test) {
                           std::string name = std::to_string(test.param.ranks) + "_expert_" +
                                              std::to_string(test.param.expert_parallel) + "_of";
                           for (const std::int64_t sequences : test.param.sequences) {
                             name += "_" + std::to_string(sequences);
                           }
                           if (test.param.node_ranks > 1) name += "_by_node";
                           return name;
                         });

struct StepResult {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;
  std::vector<RoutingStatistics> statistics;
  std::vector<std::vector<double>> biases;
};

/// One step of one rank: its loss terms summed, its gradients reduced over the ranks.
StepResult step_of(ModelRank& rank, const ReferenceBatch& batch, std::int64_t begin,
                   std::int64_t end, std::int64_t micro_batches, Recompute recompute) {
  rank.fill_with_reference_values();
  const LossTerms terms = rank.model.forward_backward(batch.slice(begin, end),
                                                      {.tokens = batch.predicted(),
                                                       .sequences = ReferenceBatch::sequences,
                                                       .micro_batches = micro_batches},
                                                      recompute, {}, rank.context);
  rank.reduce_gradients();
  StepResult result;
  result.loss = terms.cross_entropy + terms.router.balance + terms.router.z;
  const Tensor sum(&result.loss, {1}, DType::f64, Device::cpu());
  rank.mesh.world().all_reduce(sum, Reduction::sum, rank.context.stream);
  result.gradients = rank.gradients();
  result.statistics = rank.model.finish_step(rank.context);
  for (const TensorPiece& piece : rank.model.router_bias_pieces()) {
    EXPECT_EQ(piece.shape, Shape{4});
    result.biases.push_back(values_of(piece.data));
  }
  return result;
}

void expect_the_same_as_one_rank(const std::string& name, const ModelConfig& config,
                                 const Layout& layout) {
  const ReferenceBatch batch(name, config.vocab);
  ModelRank single(config, DType::f64);
  const StepResult expected = step_of(single, batch, 0, 4, 1, Recompute::none);

  std::vector<StepResult> results(static_cast<std::size_t>(layout.ranks));
  run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
    const auto self = static_cast<std::size_t>(world->rank());
    std::int64_t begin = 0;
    for (std::size_t r = 0; r < self; ++r) begin += layout.sequences[r];
    ModelRank rank(config, std::move(world), layout.expert_parallel, DType::f64, Device::cpu(),
                   layout.node_ranks);
    results[self] = step_of(rank, batch, begin, begin + layout.sequences[self], layout.ranks,
                            layout.ranks == 4             ? Recompute::block
                            : layout.expert_parallel == 2 ? Recompute::activation
                                                          : Recompute::none);
    rank.mesh.shutdown();
  });

  std::map<std::string, int> holders;
  for (const StepResult& result : results) {
    EXPECT_NEAR(result.loss, expected.loss, 1e-12 * expected.loss);
    for (const auto& [tensor, values] : result.gradients) {
      EXPECT_LT(norm_wise_error(values, expected.gradients.at(tensor)), 1e-12) << tensor;
      ++holders[tensor];
    }
    ASSERT_EQ(result.statistics.size(), expected.statistics.size());
    for (std::size_t l = 0; l < expected.statistics.size(); ++l) {
      EXPECT_EQ(result.statistics[l].layer, expected.statistics[l].layer);
      EXPECT_EQ(result.statistics[l].expert_rows, expected.statistics[l].expert_rows);
      EXPECT_EQ(result.statistics[l].dropped, 0);
    }
    EXPECT_EQ(result.biases, expected.biases);
  }
  for (const auto& [tensor, values] : expected.gradients) {
    const bool expert =
        tensor.find(".experts.") != std::string::npos && !tensor.ends_with("experts.coefficients");
    EXPECT_EQ(holders[tensor], expert ? layout.ranks / layout.expert_parallel : layout.ranks)
        << tensor;
  }
}

TEST_P(Layouts, GiveTheLossAndGradientsOfOneRank) {
  expect_the_same_as_one_rank("moe", reference_config("moe"), GetParam());
}

TEST_P(Layouts, WithSharedExpertsCoefficientsPerExpertAndAGlobalBalance) {
  ModelConfig config = reference_config("shared");
  config.moe.balance_scope = BalanceScope::global;
  expect_the_same_as_one_rank("shared", config, GetParam());
}

TEST_P(Layouts, DenseModelsToo) {
  expect_the_same_as_one_rank("dense", reference_config("dense"), GetParam());
}

TEST_P(Layouts, RouterBiasesMoveTheSameWay) {
  ModelConfig config = reference_config("moe");
  config.moe.bias_rate = 0.01;
  expect_the_same_as_one_rank("moe", config, GetParam());
}

TEST(ExpertParallel, TokenLossesAndCachedLogitsEqualThoseOfOneRank) {
  const ModelConfig config = reference_config("moe");
  const ReferenceBatch batch("moe", config.vocab);
  const auto logits_of = [&](ModelRank& rank) {
    DecodingCache cache(config, ReferenceBatch::length, DType::f64, Device::cpu());
    rank.model.next_token_logits(batch.tokens->rows(0, 4), cache, rank.context);
    return values_of(rank.model.next_token_logits(batch.tokens->rows(4, 5), cache, rank.context));
  };
  ModelRank single(config, DType::f64);
  single.fill_with_reference_values();
  const std::vector<double> losses =
      values_of(single.model.token_losses(batch.slice(1, 4), single.context));
  const std::vector<double> logits = logits_of(single);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const int self = world->rank();
    ModelRank rank(config, std::move(world), 2, DType::f64);
    rank.fill_with_reference_values();
    const TokenBatch own = self == 0 ? batch.slice(1, 4) : batch.slice(0, 0);
    const Tensor own_losses = rank.model.token_losses(own, rank.context);
    EXPECT_EQ(own_losses.dim(0), own.sequences * own.length);
    if (self == 0) {
      EXPECT_LT(norm_wise_error(values_of(own_losses), losses), 1e-12);
    }
    EXPECT_LT(norm_wise_error(logits_of(rank), logits), 1e-12);
    rank.mesh.shutdown();
  });
}

// A rank with two sequences beside one with none, and then one with one.
TEST(ExpertParallel, SequencesOfSomeRanksHaveTheLogitsOfOneRank) {
  const ModelConfig config = reference_config("moe");
  const ReferenceBatch batch("moe", config.vocab);
  const auto logits_of = [&](ModelRank& rank, bool has_prompts, std::size_t has_steps) {
    std::vector<DecodingCache> caches;
    for (int i = 0; i < 2; ++i)
      caches.emplace_back(config, ReferenceBatch::length, DType::f64, Device::cpu());
    std::vector<Continuation> prompts, steps;
    if (has_prompts)
      prompts = {{.cache = &caches[0], .tokens = 3}, {.cache = &caches[1], .tokens = 2}};
    for (std::size_t i = 0; i < has_steps; ++i) steps.push_back({.cache = &caches[i]});
    rank.model.next_token_logits(batch.tokens->rows(0, has_prompts ? 5 : 0), prompts, rank.context);
    return values_of(rank.model.next_token_logits(batch.tokens->rows(5, 5 + std::ssize(steps)),
                                                  steps, rank.context));
  };
  ModelRank single(config, DType::f64);
  single.fill_with_reference_values();
  const std::vector<double> two = logits_of(single, true, 2), one = logits_of(single, false, 1);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const int self = world->rank();
    ModelRank rank(config, std::move(world), 2, DType::f64);
    rank.fill_with_reference_values();
    const std::vector<double> own = logits_of(rank, self == 0, self == 0 ? 2 : 1);
    EXPECT_LT(norm_wise_error(own, self == 0 ? two : one), 1e-12);
    rank.mesh.shutdown();
  });
}

TEST(FinishStep, CountsEverySlotOnceAndStartsAnew) {
  const ModelConfig config = reference_config("moe");
  const ReferenceBatch batch("moe", config.vocab);
  ModelRank rank(config, DType::f64);
  const StepResult result = step_of(rank, batch, 0, 4, 1, Recompute::block);
  ASSERT_EQ(result.statistics.size(), 2u);
  for (const RoutingStatistics& layer : result.statistics) {
    std::int64_t slots = 0;
    for (const std::int64_t rows : layer.expert_rows) slots += rows;
    EXPECT_EQ(slots, 4 * ReferenceBatch::length * 2);
  }
  for (const RoutingStatistics& layer : rank.model.finish_step(rank.context)) {
    EXPECT_EQ(layer.expert_rows, std::vector<std::int64_t>(4, 0));
  }
}

TEST(FinishStep, MovesBiasesByTheSignOfTheLoad) {
  ModelConfig config = reference_config("moe");
  config.moe.bias_rate = 0.01;
  const ReferenceBatch batch("moe", config.vocab);
  ModelRank rank(config, DType::f64);
  ASSERT_EQ(rank.model.router_bias_pieces().size(), 2u);
  EXPECT_EQ(rank.model.router_bias_pieces()[1].name, "router_bias/layers.1");
  const StepResult result = step_of(rank, batch, 0, 4, 1, Recompute::none);
  for (std::size_t l = 0; l < 2; ++l) {
    for (std::size_t e = 0; e < 4; ++e) {
      const double load = static_cast<double>(result.statistics[l].expert_rows[e]);
      const double mean = 4 * ReferenceBatch::length * 2 / 4.0;
      const double sign = load < mean ? 1.0 : load > mean ? -1.0 : 0.0;
      EXPECT_NEAR(result.biases[l][e], 0.01 * sign, 1e-9);
    }
  }
}

}  // namespace
}  // namespace polymoe::test
