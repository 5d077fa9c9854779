// SPDX-License-Identifier: Apache-2.0
// Every device's router against the CPU's in f64. The router is f32 on every device.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/router/router.h"
#include "kernels/router/router_balance.h"
#include "kernels/router/router_rules.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;

class RouterDevices : public test::OnDevice {
 protected:
  void expect_same(const Tensor& actual, const Tensor& expected, const char* name) {
    const OwnedTensor host = fetched(actual);
    if (expected.dtype() == DType::i32 || expected.dtype() == DType::i64) {
      EXPECT_TRUE(test::bitwise_equal(*host, expected)) << name;
    } else {
      // Zeros have no relative error.
      const bool same = test::values_of(*host) == test::values_of(expected);
      EXPECT_TRUE(same || test::relative_error(*host, expected) <= 1e-5) << name;
    }
  }

  void expect_routing(const RouterShape& shape, bool with_bias) {
    Stream host(Device::cpu());
    Arena host_arena({.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true});
    const Shape per_expert{shape.tokens, shape.experts}, per_slot{shape.tokens, shape.top_k};
    const Shape per_segment{shape.segments, shape.experts};
    const OwnedTensor logits = random_tensor(per_expert, DType::f32, "logits", {0.0, 2.0});
    const OwnedTensor logits64 = converted(*logits, DType::f64);
    const OwnedTensor bias = random_tensor({shape.experts}, DType::f32, "bias", {0.0, 0.05});
    const OwnedTensor d_weights = random_tensor(per_slot, DType::f32, "d_weights");
    const OwnedTensor device_logits = moved(*logits), device_bias = moved(*bias);
    const OwnedTensor device_d_weights = moved(*d_weights);

    RouterState expected = allocate_router_state(shape, DType::f64, host_arena);
    router_forward(shape, *logits64, with_bias ? *bias : Tensor{}, expected, host_arena, host);
    const Arena::Scope scope(arena());
    RouterState actual = allocate_router_state(shape, DType::f32, arena());
    router_forward(shape, *device_logits, with_bias ? *device_bias : Tensor{}, actual, arena(),
                   stream());
    expect_same(actual.scores, expected.scores, "scores");
    expect_same(actual.log_sum_exp, expected.log_sum_exp, "log_sum_exp");
    expect_same(actual.expert_ids, expected.expert_ids, "expert_ids");
    expect_same(actual.weights, expected.weights, "weights");
    expect_same(actual.segment_counts, expected.segment_counts, "segment_counts");
    expect_same(actual.segment_probability_sums, expected.segment_probability_sums, "sums");

    const OwnedTensor losses(Shape{2}, DType::f64, Device::cpu());
    const OwnedTensor gradient = test::poisoned_tensor(per_segment, DType::f64);
    router_losses({expected.segment_counts, expected.segment_probability_sums, expected.log_sum_exp,
                   shape.top_k, 0.01, 0.001},
                  *losses, *gradient, host);
    const OwnedTensor device_losses(Shape{2}, DType::f64, device());
    const OwnedTensor device_gradient = poisoned(per_segment, DType::f32);
    router_losses({actual.segment_counts, actual.segment_probability_sums, actual.log_sum_exp,
                   shape.top_k, 0.01, 0.001},
                  *device_losses, *device_gradient, stream());
    expect_same(*device_losses, *losses, "losses");
    expect_same(*device_gradient, *gradient, "balance gradient");

    const OwnedTensor d_logits = test::poisoned_tensor(per_expert, DType::f64);
    router_backward(shape, *logits64, expected, *converted(*d_weights, DType::f64), *gradient,
                    0.001, *d_logits, host);
    // In place of the logits, as allowed.
    router_backward(shape, *device_logits, actual, *device_d_weights, *device_gradient, 0.001,
                    *device_logits, stream());
    expect_same(*device_logits, *d_logits, "d_logits");
  }
};

std::vector<test::Placement> f32_placements() {
  std::vector<test::Placement> list;
  for (const test::Placement& placement : test::placements()) {
    if (placement.dtype == DType::f32) list.push_back(placement);
  }
  return list;
}

INSTANTIATE_TEST_SUITE_P(Devices, RouterDevices, ::testing::ValuesIn(f32_placements()),
                         test::name_of_placement);

TEST_P(RouterDevices, EqualsTheCpuInF64) {
  for (const auto& [name, rule] : test::router_rules) {
    for (const std::int64_t experts : {8, 64, 100}) {
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(name + (with_bias ? ", biased, " : ", ") + std::to_string(experts));
        expect_routing({.tokens = 300,
                        .experts = experts,
                        .top_k = 6,
                        .segments = 3,
                        .segment_tokens = 100,
                        .rule = rule},
                       with_bias);
      }
    }
  }
}

TEST_P(RouterDevices, NoTokens) {
  expect_routing({.tokens = 0, .experts = 4, .top_k = 2, .segments = 0, .segment_tokens = 0},
                 false);
}

TEST_P(RouterDevices, EqualScoresGoToTheLowerExpert) {
  const RouterShape shape{
      .tokens = 2, .experts = 40, .top_k = 3, .segments = 1, .segment_tokens = 2};
  std::vector<double> values(80, 1.0);
  values[39] = 2.0;
  const OwnedTensor logits = moved(*test::tensor_of({2, 40}, DType::f32, values));
  RouterState state = allocate_router_state(shape, DType::f32, arena());
  router_forward(shape, *logits, {}, state, arena(), stream());
  EXPECT_EQ(test::values_of(*fetched(state.expert_ids)), (std::vector<double>{39, 0, 1, 0, 1, 2}));
}

TEST_P(RouterDevices, SlotsAreCountedAndBiasesMoveTowardsTheMean) {
  const OwnedTensor routed = moved(*test::tensor_of({2, 3}, DType::i64, {4, 0, 2, 1, 5, 0}));
  const OwnedTensor kept = moved(*test::tensor_of({3}, DType::i64, {5, 3, 2}));
  const OwnedTensor totals = moved(*test::tensor_of({4}, DType::i64, {10, 0, 0, 1}));
  count_slots(*routed, *kept, *totals, stream());
  EXPECT_EQ(test::values_of(*fetched(*totals)), (std::vector<double>{15, 5, 2, 3}));
  const OwnedTensor bias = moved(*test::tensor_of({3}, DType::f32, {0.5, 0.5, 0.5}));
  const std::vector<std::int64_t> counts{2, 5, 8};
  move_router_bias(counts, 0.25, *bias, stream());
  EXPECT_EQ(test::values_of(*fetched(*bias)), (std::vector<double>{0.75, 0.5, 0.25}));
}

}  // namespace
}  // namespace polymoe
