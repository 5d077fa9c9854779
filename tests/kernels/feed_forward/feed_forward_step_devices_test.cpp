// SPDX-License-Identifier: Apache-2.0
// Every device's feed-forward of one token against its parts, one after the other, on the CPU in
// f64.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/router/router.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;
using test::tensor_of;

constexpr double epsilon = 1e-3;

/// One token, and a layer of experts of which a dense one is the first.
struct Case {
  std::int64_t hidden = 96, ffn = 320, experts = 7, top_k = 4;
  bool chooses = true, norms = true, coefficients_per_expert = false;
  RouterRule rule = {};
};

class FeedForwardStepDevices : public test::OnDevice {
 protected:
  void expect_sum(const Activation& activation, const Case& c) {
    const std::int64_t count = c.chooses ? c.experts : 1;
    const std::int64_t wide = pre_activation_factor(activation.kind) * c.ffn;
    const std::int64_t sets = c.coefficients_per_expert ? count : 1;
    const auto drawn = [](const Shape& shape, const char* name, double deviation, DType type) {
      return converted(*random_tensor(shape, DType::f64, name, {0.0, deviation}), type);
    };
    const double of_up = 1.0 / std::sqrt(c.hidden), of_down = 1.0 / std::sqrt(c.ffn);
    const OwnedTensor x = drawn({1, c.hidden}, "x", 1.0, dtype());
    const OwnedTensor scale = drawn({c.hidden}, "scale", 1.0, dtype());
    const OwnedTensor up = drawn({count, wide, c.hidden}, "up", of_up, dtype());
    const OwnedTensor down = drawn({count, c.hidden, c.ffn}, "down", of_down, dtype());
    const OwnedTensor a = drawn({sets, coefficient_count(activation)}, "a", 1.0, wide_dtype());
    const OwnedTensor residual = drawn({1, c.hidden}, "residual", 1.0, dtype());
    const OwnedTensor logits = drawn({1, c.experts}, "logits", 1.0, wide_dtype());
    const OwnedTensor bias = drawn({c.experts}, "bias", 1.0, DType::f32);

    const OwnedTensor device_x = moved(*x), device_scale = moved(*scale);
    const OwnedTensor device_up = moved(*up), device_down = moved(*down), device_a = moved(*a);
    const OwnedTensor device_logits = moved(*logits), device_bias = moved(*bias);
    const OwnedTensor device_residual = moved(*residual);
    const OwnedTensor y = poisoned({1, c.hidden}, dtype());
    const FeedForwardWeights weights{*device_up, *device_down, *device_a};
    const RowInput input{*device_x, c.norms ? *device_scale : Tensor(), epsilon};
    const ExpertChoice choice{*device_logits, *device_bias, c.top_k, c.rule};
    const auto run = [&](const Tensor& before, const Tensor& result) {
      if (c.chooses)
        chosen_experts_step(activation, weights, input, choice, before, result, arena(), stream());
      else
        feed_forward_step(activation, weights, input, before, result, arena(), stream());
    };
    run(*device_residual, *y);
    run(*device_residual, *device_residual);
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_residual), *fetched(*y)));

    const DType f64 = DType::f64;
    OwnedTensor row = converted(*x, f64);
    if (c.norms) row = normed(*row, *converted(*scale, f64));
    OwnedTensor expected = converted(*residual, f64);
    const Routing routing = c.chooses ? route(*logits, *bias, c) : Routing{{0.0}, {1.0}};
    for (std::size_t j = 0; j < routing.ids.size(); ++j)
      expected =
          with_expert(activation, {*up, *down, *a}, *row, static_cast<std::size_t>(routing.ids[j]),
                      routing.weights[j], *expected);
    EXPECT_LE(test::relative_error(*fetched(*y), *expected), test::norm_tolerance(dtype()));
  }

 private:
  struct Routing {
    std::vector<double> ids, weights;
  };

  static OwnedTensor normed(const Tensor& row, const Tensor& scale) {
    Stream cpu(Device::cpu());
    OwnedTensor y(row.shape(), DType::f64, Device::cpu());
    const OwnedTensor inv_rms({1}, DType::f64, Device::cpu());
    rms_norm_forward(row, scale, epsilon, *y, *inv_rms, cpu);
    return y;
  }

  static Routing route(const Tensor& logits, const Tensor& bias, const Case& c) {
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
    const RouterShape shape{.tokens = 1,
                            .experts = c.experts,
                            .top_k = c.top_k,
                            .segments = 1,
                            .segment_tokens = 1,
                            .rule = c.rule};
    RouterState state = allocate_router_state(shape, DType::f64, scratch);
    router_forward(shape, *converted(logits, DType::f64), bias, state, scratch, cpu);
    return {test::values_of(state.expert_ids), test::values_of(state.weights)};
  }

  /// before + the expert's result with this weight.
  static OwnedTensor with_expert(const Activation& activation, const FeedForwardWeights& weights,
                                 const Tensor& row, std::size_t expert, double weight,
                                 const Tensor& before) {
    const DType f64 = DType::f64;
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
    const OwnedTensor up = converted(weights.up, f64), down = converted(weights.down, f64);
    const OwnedTensor a = converted(weights.coefficients, f64);
    const auto count = static_cast<std::size_t>(up->dim(0));
    ExpertOffsets offsets(count + 1, 0);
    for (std::size_t e = expert; e < count; ++e) offsets[e + 1] = 1;
    const OwnedTensor pre({1, up->dim(1)}, f64, Device::cpu());
    const OwnedTensor y(row.shape(), f64, Device::cpu());
    feed_forward_forward(activation, {*up, *down, *a}, row, offsets, *tensor_of({1}, f64, {weight}),
                         *pre, *y, scratch, cpu);
    std::vector<double> sum = test::values_of(before);
    const std::vector<double> values = test::values_of(*y);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    return tensor_of(row.shape(), f64, sum);
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, FeedForwardStepDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(FeedForwardStepDevices, IsTheSumOfItsPartsWithEveryActivation) {
  for (const ActivationKind kind : all_activations()) {
    for (const bool chooses : {false, true}) {
      SCOPED_TRACE(std::string(name_of(kind)) + (chooses ? ", chosen" : ", dense"));
      expect_sum({.kind = kind}, {.chooses = chooses});
    }
  }
  for (const int order : {2, 4}) {
    SCOPED_TRACE(order);
    expect_sum({.kind = ActivationKind::polynorm, .order = order}, {});
  }
}

TEST_P(FeedForwardStepDevices, IsTheSumOfItsPartsAtEverySize) {
  // Rows that are not made of vectors of 16 bytes; ones of whole and of part requests; activated
  // rows that are longer than the shared memory of a GPU's processor.
  const std::vector<Case> cases = {
      {.hidden = 33, .ffn = 21},
      {.hidden = 33, .ffn = 21, .chooses = false},
      {.hidden = 64, .ffn = 1536, .coefficients_per_expert = true},
      {.hidden = 33, .ffn = 24, .coefficients_per_expert = true},
      {.hidden = 24, .ffn = 33, .coefficients_per_expert = true},
      {.hidden = 2048, .ffn = 24, .norms = false},
      {.hidden = 24, .ffn = 8256, .chooses = false},
      {.hidden = 8, .ffn = 120000, .chooses = false},
      {.hidden = 8, .ffn = 30000},
      // More experts than a block looks at at once, more slots than it has warps.
      {.hidden = 40, .ffn = 48, .experts = 65, .top_k = 9, .coefficients_per_expert = true},
      {.hidden = 40, .ffn = 48, .experts = 130, .top_k = 12},
  };
  for (const Case& c : cases) {
    for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::swiglu}) {
      if (c.coefficients_per_expert && kind == ActivationKind::swiglu) continue;
      SCOPED_TRACE(std::string(name_of(kind)) + ", hidden " + std::to_string(c.hidden) + ", ffn " +
                   std::to_string(c.ffn));
      expect_sum({.kind = kind}, c);
    }
  }
}

TEST_P(FeedForwardStepDevices, ChoosesAsTheRouterDoes) {
  for (const RouterScores scores : {RouterScores::softmax, RouterScores::sigmoid}) {
    for (const bool normalize : {false, true}) {
      SCOPED_TRACE(normalize);
      expect_sum({}, {.rule = {.scores = scores, .normalize = normalize}});
    }
  }
}

}  // namespace
}  // namespace polymoe
