// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/router/router_balance.h"
#include "kernels/router/router_rules.h"
#include "runtime/error.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::all_close;
using test::poisoned_tensor;
using test::random_tensor;
using test::tensor_of;
using test::values_of;

/// A router with memory of its own, poisoned before every use.
struct Router {
  RouterShape shape;
  DType dtype;
  Arena arena{{.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true}};
  Stream stream{Device::cpu()};
  RouterState state = allocate_router_state(shape, dtype, arena);

  void forward(const Tensor& logits, const Tensor& bias) {
    router_forward(shape, logits, bias, state, arena, stream);
  }
  Tensor allocate(const Shape& extents, DType type) { return arena.allocate(extents, type); }
};

class RouterCases : public ::testing::TestWithParam<std::tuple<DType, RouterScores, bool, bool>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  RouterScores scores() const { return std::get<1>(GetParam()); }
  bool normalize() const { return std::get<2>(GetParam()); }
  bool biased() const { return std::get<3>(GetParam()); }
  std::string name() const {
    return std::string(scores() == RouterScores::softmax ? "softmax" : "sigmoid") +
           (normalize() ? "_normalized" : "") + (biased() ? "_biased" : "");
  }
};

TEST_P(RouterCases, AreThoseOfPyTorch) {
  const test::Fixture fixture("router.txt");
  const std::string prefix = name() + "/";
  const test::Tolerance tolerance = test::tolerance_of(dtype());
  const Shape extents = fixture.shape("logits"), slots = fixture.shape("d_weights");
  const std::int64_t segments = fixture.shape(prefix + "counts")[0];
  Router router{.shape = {.tokens = extents[0],
                          .experts = extents[1],
                          .top_k = slots[1],
                          .segments = segments,
                          .segment_tokens = extents[0] / segments,
                          .rule = {.scores = scores(), .normalize = normalize()}},
                .dtype = dtype()};
  const OwnedTensor logits = fixture.tensor("logits", dtype());
  const OwnedTensor bias = fixture.tensor("bias", DType::f32);
  router.forward(*logits, biased() ? *bias : Tensor{});
  EXPECT_EQ(values_of(router.state.expert_ids), fixture.values(prefix + "ids"));
  EXPECT_EQ(values_of(router.state.segment_counts), fixture.values(prefix + "counts"));
  const auto expect = [&](const Tensor& actual, const std::string& entry) {
    EXPECT_TRUE(all_close(values_of(actual), fixture.values(prefix + entry), tolerance)) << entry;
  };
  expect(router.state.scores, "scores");
  expect(router.state.log_sum_exp, "log_sum_exp");
  expect(router.state.weights, "weights");
  expect(router.state.segment_probability_sums, "probability_sums");

  const Tensor gradient = router.allocate({segments, extents[1]}, dtype());
  const OwnedTensor losses({2}, DType::f64, Device::cpu());
  router_losses({.counts = router.state.segment_counts,
                 .probability_sums = router.state.segment_probability_sums,
                 .log_sum_exp = router.state.log_sum_exp,
                 .top_k = slots[1],
                 .balance_scale = fixture.scalar("balance_scale"),
                 .z_scale = fixture.scalar("z_scale")},
                *losses, gradient, router.stream);
  EXPECT_TRUE(all_close(
      values_of(*losses),
      {fixture.scalar(prefix + "balance_loss"), fixture.scalar(prefix + "z_loss")}, tolerance));
  const OwnedTensor d_weights = fixture.tensor("d_weights", dtype());
  const Tensor d_logits = router.allocate(extents, dtype());
  router_backward(router.shape, *logits, router.state, *d_weights, gradient,
                  fixture.scalar("z_scale"), d_logits, router.stream);
  expect(d_logits, "d_logits");
  // In place of the logits.
  router_backward(router.shape, *logits, router.state, *d_weights, gradient,
                  fixture.scalar("z_scale"), *logits, router.stream);
  EXPECT_TRUE(test::bitwise_equal(*logits, d_logits));
}

// In f64. Thousands of small calls: threads would only wait for each other.
class RouterGradients : public ::testing::TestWithParam<std::tuple<test::NamedRule, bool>> {
 protected:
  const RouterRule& rule() const { return std::get<0>(GetParam()).rule; }
  bool biased() const { return std::get<1>(GetParam()); }
  void SetUp() override { omp_set_num_threads(1); }
  void TearDown() override { omp_set_num_threads(threads_); }

 private:
  int threads_ = omp_get_max_threads();
};

TEST_P(RouterGradients, AreCentralDifferences) {
  const std::int64_t segments = 2, length = 20, experts = 13, k = 4, tokens = segments * length;
  Router router{.shape = {.tokens = tokens,
                          .experts = experts,
                          .top_k = k,
                          .segments = segments,
                          .segment_tokens = length,
                          .rule = rule()},
                .dtype = DType::f64};
  const OwnedTensor logits = random_tensor({tokens, experts}, DType::f64, "logits", {0.1, 1.5});
  const OwnedTensor bias = random_tensor({experts}, DType::f32, "bias", {0.0, 0.1});
  const Tensor used_bias = biased() ? *bias : Tensor{};
  const OwnedTensor d_weights = random_tensor({tokens, k}, DType::f64, "d_weights");
  const OwnedTensor slope = random_tensor({segments, experts}, DType::f64, "slope");
  const double z_scale = 0.05;
  router.forward(*logits, used_bias);
  const OwnedTensor d_logits = poisoned_tensor({tokens, experts}, DType::f64);
  router_backward(router.shape, *logits, router.state, *d_weights, *slope, z_scale, *d_logits,
                  router.stream);
  const std::vector<double> ids = values_of(router.state.expert_ids);
  bool same_choice = true;
  const auto loss = [&] {
    router.forward(*logits, used_bias);
    same_choice = same_choice && values_of(router.state.expert_ids) == ids;
    return test::inner_product(*d_weights, router.state.weights) +
           test::inner_product(*slope, router.state.segment_probability_sums) +
           z_scale * test::inner_product(router.state.log_sum_exp, router.state.log_sum_exp);
  };
  EXPECT_TRUE(
      test::gradient_matches("logits", *logits, *d_logits, loss, {.step = 1e-3, .samples = 60}));
  EXPECT_TRUE(same_choice) << "a step of the difference changed an expert: choose another seed";
}

TEST_P(RouterGradients, BelongToTheWeightsOfTheFormula) {
  constexpr std::int64_t tokens = 9, experts = 7, k = 3;
  Router router{.shape = {.tokens = tokens,
                          .experts = experts,
                          .top_k = k,
                          .segments = 1,
                          .segment_tokens = tokens,
                          .rule = rule()},
                .dtype = DType::f64};
  const OwnedTensor logits = random_tensor({tokens, experts}, DType::f64, "logits", {0.1, 1.5});
  const OwnedTensor bias = random_tensor({experts}, DType::f32, "bias", {0.0, 0.1});
  router.forward(*logits, biased() ? *bias : Tensor{});
  const std::vector<double> scores = values_of(router.state.scores),
                            ids = values_of(router.state.expert_ids),
                            weights = values_of(router.state.weights);
  std::vector<double> expected;
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<double> chosen;
    for (std::int64_t j = 0; j < k; ++j) {
      const auto expert = static_cast<std::int64_t>(ids[static_cast<std::size_t>(t * k + j)]);
      chosen.push_back(scores[static_cast<std::size_t>(t * experts + expert)]);
    }
    for (const double weight : test::expected_weights(rule(), chosen)) expected.push_back(weight);
  }
  EXPECT_TRUE(all_close(weights, expected, {1e-14, 0.0}));
}

TEST_P(RouterCases, NoTokensOfNoSegmentOrOneAreFine) {
  for (const std::int64_t segments : {0, 1}) {
    Router router{.shape = {.tokens = 0,
                            .experts = 5,
                            .top_k = 2,
                            .segments = segments,
                            .segment_tokens = segments == 1 ? 0 : 9,
                            .rule = {.scores = scores(), .normalize = normalize()}},
                  .dtype = dtype()};
    const OwnedTensor logits({0, 5}, dtype(), Device::cpu());
    const OwnedTensor d_weights({0, 2}, dtype(), Device::cpu());
    const OwnedTensor bias({5}, DType::f32, Device::cpu());
    router.forward(*logits, biased() ? *bias : Tensor{});
    const std::vector<double> zeros(static_cast<std::size_t>(segments * 5), 0.0);
    EXPECT_EQ(values_of(router.state.segment_counts), zeros);
    EXPECT_EQ(values_of(router.state.segment_probability_sums), zeros);
    const Tensor gradient = router.allocate({segments, 5}, dtype());
    const OwnedTensor losses({2}, DType::f64, Device::cpu());
    router_losses({router.state.segment_counts, router.state.segment_probability_sums,
                   router.state.log_sum_exp, 2, 1.0, 1.0},
                  *losses, gradient, router.stream);
    EXPECT_EQ(values_of(*losses), (std::vector<double>{0.0, 0.0}));
    EXPECT_EQ(values_of(gradient), zeros);
    EXPECT_NO_THROW(router_backward(router.shape, *logits, router.state, *d_weights, gradient, 1.0,
                                    *logits, router.stream));
  }
}

std::string case_name(
    const ::testing::TestParamInfo<std::tuple<DType, RouterScores, bool, bool>>& test) {
  return std::string(name_of(std::get<0>(test.param))) +
         (std::get<1>(test.param) == RouterScores::softmax ? "_softmax" : "_sigmoid") +
         (std::get<2>(test.param) ? "_normalized" : "") +
         (std::get<3>(test.param) ? "_biased" : "");
}

const auto both_scores = ::testing::Values(RouterScores::softmax, RouterScores::sigmoid);
INSTANTIATE_TEST_SUITE_P(All, RouterCases,
                         ::testing::Combine(::testing::Values(DType::f32, DType::f64), both_scores,
                                            ::testing::Bool(), ::testing::Bool()),
                         case_name);
INSTANTIATE_TEST_SUITE_P(All, RouterGradients,
                         ::testing::Combine(::testing::ValuesIn(test::router_rules),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           return std::get<0>(test.param).name +
                                  (std::get<1>(test.param) ? "_biased" : "");
                         });

TEST(Router, EqualScoresGoToTheLowerExpert) {
  Router router{
      .shape = {.tokens = 2, .experts = 6, .top_k = 3, .segments = 1, .segment_tokens = 2},
      .dtype = DType::f32};
  const OwnedTensor logits = tensor_of({2, 6}, DType::f32,
                                       {1, 1, 1, 1, 1, 1,  //
                                        0, 2, 0, 2, 2, 2});
  router.forward(*logits, Tensor{});
  EXPECT_EQ(values_of(router.state.expert_ids), (std::vector<double>{0, 1, 2, 1, 3, 4}));
  EXPECT_EQ(values_of(router.state.segment_counts), (std::vector<double>{1, 2, 1, 1, 1, 0}));
}

TEST(Router, ChoosesAllExpertsWhenTopKIsTheirNumber) {
  Router router{.shape = {.tokens = 1,
                          .experts = 4,
                          .top_k = 4,
                          .segments = 1,
                          .segment_tokens = 1,
                          .rule = {.normalize = true}},
                .dtype = DType::f64};
  const OwnedTensor logits = tensor_of({1, 4}, DType::f64, {-1, 3, 0, 2});
  router.forward(*logits, Tensor{});
  EXPECT_EQ(values_of(router.state.expert_ids), (std::vector<double>{1, 3, 2, 0}));
  const std::vector<double> weights = values_of(router.state.weights);
  EXPECT_NEAR(weights[0] + weights[1] + weights[2] + weights[3], 1.0, 1e-15);
}

// A diverged model must reach the check of its loss, not write outside of a tensor.
TEST(Router, NanStillChoosesDifferentExperts) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Router router{
      .shape = {.tokens = 2, .experts = 5, .top_k = 3, .segments = 2, .segment_tokens = 1},
      .dtype = DType::f32};
  const OwnedTensor logits =
      tensor_of({2, 5}, DType::f32, {nan, nan, nan, nan, nan, 1, nan, 2, 3, nan});
  router.forward(*logits, Tensor{});
  const std::vector<double> ids = values_of(router.state.expert_ids);
  for (const auto begin : {ids.begin(), ids.begin() + 3}) {
    const std::set<double> of_token(begin, begin + 3);
    EXPECT_EQ(of_token.size(), 3u);
    EXPECT_GE(*of_token.begin(), 0.0);
    EXPECT_LT(*of_token.rbegin(), 5.0);
  }
}

TEST(Router, LargeLogitsStayFinite) {
  for (const RouterScores scores : {RouterScores::softmax, RouterScores::sigmoid}) {
    Router router{.shape = {.tokens = 2,
                            .experts = 3,
                            .top_k = 2,
                            .segments = 1,
                            .segment_tokens = 2,
                            .rule = {.scores = scores, .normalize = true}},
                  .dtype = DType::f32};
    const OwnedTensor logits = tensor_of({2, 3}, DType::f32, {300, -300, 280, -400, -500, -450});
    router.forward(*logits, Tensor{});
    const OwnedTensor d_weights = tensor_of({2, 2}, DType::f32, {1, -1, 2, 0.5});
    const Tensor d_logits = router.allocate({2, 3}, DType::f32);
    router_backward(router.shape, *logits, router.state, *d_weights, Tensor{}, 0.1, d_logits,
                    router.stream);
    for (const Tensor& tensor :
         {router.state.scores, router.state.log_sum_exp, router.state.weights, d_logits}) {
      for (const double value : values_of(tensor)) EXPECT_TRUE(std::isfinite(value));
    }
  }
}

// The sums of a long segment are those of its tokens, whatever parts they were formed in.
TEST(Router, StatisticsAreThoseOfTheirSegment) {
  const std::int64_t segments = 2, length = 1000, experts = 7;
  Router router{.shape = {.tokens = segments * length,
                          .experts = experts,
                          .top_k = 2,
                          .segments = segments,
                          .segment_tokens = length},
                .dtype = DType::f64};
  const OwnedTensor logits = random_tensor({segments * length, experts}, DType::f64, "logits");
  router.forward(*logits, Tensor{});
  const std::vector<double> scores = values_of(router.state.scores);
  const std::vector<double> ids = values_of(router.state.expert_ids);
  std::vector<double> sums(static_cast<std::size_t>(segments * experts), 0.0), counts = sums;
  for (std::int64_t t = 0; t < segments * length; ++t) {
    for (std::int64_t e = 0; e < experts; ++e) {
      sums[static_cast<std::size_t>(t / length * experts + e)] +=
          scores[static_cast<std::size_t>(t * experts + e)];
    }
    for (std::int64_t j = 0; j < 2; ++j) {
      counts[static_cast<std::size_t>(t / length * experts) +
             static_cast<std::size_t>(ids[static_cast<std::size_t>(t * 2 + j)])] += 1.0;
    }
  }
  EXPECT_TRUE(all_close(values_of(router.state.segment_probability_sums), sums, {1e-13, 0.0}));
  EXPECT_EQ(values_of(router.state.segment_counts), counts);
}

TEST(Router, DoesNotDependOnTheNumberOfThreads) {
  const OwnedTensor logits = random_tensor({900, 11}, DType::f32, "logits");
  const int threads = omp_get_max_threads();
  std::vector<std::vector<double>> sums, weights;
  for (const int used : {1, 3}) {
    omp_set_num_threads(used);
    Router router{
        .shape = {.tokens = 900, .experts = 11, .top_k = 4, .segments = 2, .segment_tokens = 450},
        .dtype = DType::f32};
    router.forward(*logits, Tensor{});
    sums.push_back(values_of(router.state.segment_probability_sums));
    weights.push_back(values_of(router.state.weights));
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(weights[0], weights[1]);
}

TEST(Router, RefusesWhatDoesNotFit) {
  Router router{
      .shape = {.tokens = 4, .experts = 3, .top_k = 2, .segments = 2, .segment_tokens = 2},
      .dtype = DType::f32};
  const OwnedTensor logits({4, 3}, DType::f32, Device::cpu());
  router.shape.top_k = 4;
  EXPECT_THROW(router.forward(*logits, Tensor{}), InvalidArgument);
  router.shape.top_k = 2;
  router.shape.segment_tokens = 3;
  try {
    router.forward(*logits, Tensor{});
    FAIL() << "accepted 2 segments of 3 tokens out of 4";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "router_forward: 2 segments of 3 tokens do not make 4 tokens");
  }
  router.shape.segment_tokens = 2;
  const OwnedTensor bias({4}, DType::f32, Device::cpu());
  EXPECT_THROW(router.forward(*logits, *bias), InvalidArgument);
}

TEST(RouterOnMeta, CountsTheMemoryOfTheRealOne) {
  const RouterShape shape{
      .tokens = 600, .experts = 8, .top_k = 2, .segments = 3, .segment_tokens = 200};
  std::size_t high_water[2];
  for (const Device device : {Device::cpu(), Device::meta()}) {
    Arena arena({.device = device, .capacity = std::size_t{1} << 24, .poison = false});
    Stream stream(device);
    const OwnedTensor logits({600, 8}, DType::f32, device);
    RouterState state = allocate_router_state(shape, DType::f32, arena);
    router_forward(shape, *logits, Tensor{}, state, arena, stream);
    high_water[device == Device::meta()] = arena.high_water();
  }
  EXPECT_EQ(high_water[0], high_water[1]);
}

TEST(RouterBalance, EvenRoutingCostsTheCoefficient) {
  // f_e = P_e = 1 / experts in each of two segments.
  const OwnedTensor counts = tensor_of({2, 4}, DType::i64, std::vector<double>(8, 6.0));
  const OwnedTensor sums = tensor_of({2, 4}, DType::f64, std::vector<double>(8, 3.0));
  const OwnedTensor lse = tensor_of({3}, DType::f32, {1.0, -2.0, 0.5});
  const OwnedTensor losses = tensor_of({2}, DType::f64, {10.0, 20.0});
  const OwnedTensor gradient = poisoned_tensor({2, 4}, DType::f32);
  Stream stream(Device::cpu());
  router_losses({*counts, *sums, *lse, 2, 0.25, 2.0}, *losses, *gradient, stream);
  EXPECT_TRUE(all_close(values_of(*losses), {10.0 + 2 * 0.25, 20.0 + 2.0 * 5.25}, {1e-15, 0.0}));
  // balance_scale * experts * f / tokens = 0.25 * 4 * 0.25 / 12.
  EXPECT_TRUE(all_close(values_of(*gradient), std::vector<double>(8, 0.25 / 12), {1e-7, 0.0}));
}

TEST(RouterBalance, CountsRoutedAndDroppedSlots) {
  const OwnedTensor routed = tensor_of({2, 3}, DType::i64, {5, 0, 1, 2, 3, 1});
  const OwnedTensor kept = tensor_of({3}, DType::i64, {4, 3, 2});
  const OwnedTensor totals = tensor_of({4}, DType::i64, {100, 200, 300, 400});
  Stream stream(Device::cpu());
  count_slots(*routed, *kept, *totals, stream);
  EXPECT_EQ(values_of(*totals), (std::vector<double>{107, 203, 302, 403}));
}

TEST(RouterBalance, BiasMovesTowardsTheMean) {
  const OwnedTensor bias = tensor_of({4}, DType::f32, {0.5, 0.5, 0.5, 0.5});
  Stream stream(Device::cpu());
  move_router_bias(std::vector<std::int64_t>{0, 2, 3, 5}, 0.125, *bias, stream);
  EXPECT_EQ(values_of(*bias), (std::vector<double>{0.625, 0.625, 0.375, 0.375}));
  move_router_bias(std::vector<std::int64_t>{3, 3, 1, 5}, 0.125, *bias, stream);
  EXPECT_EQ(values_of(*bias), (std::vector<double>{0.625, 0.625, 0.5, 0.25}));
}

}  // namespace
}  // namespace polymoe
