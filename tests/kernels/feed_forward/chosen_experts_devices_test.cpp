// SPDX-License-Identifier: Apache-2.0
// Every device's chosen experts against one expert after the other on the CPU in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/feed_forward/chosen_experts.h"
#include "kernels/feed_forward/feed_forward.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;
using test::tensor_of;

struct Sizes {
  std::int64_t hidden, ffn;
  bool coefficients_per_expert;
};

constexpr std::int64_t experts = 7;
const std::vector<double> chosen = {5, 0, 6, 2};
const auto top_k = static_cast<std::int64_t>(chosen.size());

class ChosenExpertsDevices : public test::OnDevice {
 protected:
  void expect_sum(const Activation& activation, const Sizes& sizes, Write write) {
    const auto [hidden, ffn, per_expert] = sizes;
    const std::int64_t wide = pre_activation_factor(activation.kind) * ffn;
    const std::int64_t sets = per_expert ? experts : 1;
    const auto drawn = [](const Shape& shape, const char* name, double deviation, DType type) {
      return converted(*random_tensor(shape, DType::f64, name, {0.0, deviation}), type);
    };
    const OwnedTensor x = drawn({1, hidden}, "x", 1.0, dtype());
    const OwnedTensor up = drawn({experts, wide, hidden}, "up", 1.0 / std::sqrt(hidden), dtype());
    const OwnedTensor down = drawn({experts, hidden, ffn}, "down", 1.0 / std::sqrt(ffn), dtype());
    const OwnedTensor a = drawn({sets, coefficient_count(activation)}, "a", 1.0, wide_dtype());
    const OwnedTensor row_weights = drawn({1, top_k}, "row_weights", 0.5, wide_dtype());
    const OwnedTensor before = drawn({1, hidden}, "y", 1.0, dtype());
    const OwnedTensor ids = tensor_of({1, top_k}, DType::i32, chosen);

    const OwnedTensor device_x = moved(*x), device_up = moved(*up), device_down = moved(*down);
    const OwnedTensor device_a = moved(*a), device_ids = moved(*ids);
    const OwnedTensor device_weights = moved(*row_weights);
    const OwnedTensor y =
        write == Write::accumulate ? moved(*before) : poisoned({1, hidden}, dtype());
    chosen_experts_forward(activation, {*device_up, *device_down, *device_a}, *device_x,
                           *device_ids, *device_weights, write, *y, arena(), stream());
    EXPECT_LE(test::relative_error(*fetched(*y), *in_f64(activation, {*up, *down, *a}, *x,
                                                         *row_weights, *before, write)),
              test::norm_tolerance(dtype()));
  }

  static OwnedTensor in_f64(const Activation& activation, const FeedForwardWeights& weights,
                            const Tensor& x, const Tensor& row_weights, const Tensor& before,
                            Write write) {
    const DType f64 = DType::f64;
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
    const OwnedTensor up = converted(weights.up, f64), down = converted(weights.down, f64);
    const OwnedTensor a = converted(weights.coefficients, f64), row = converted(x, f64);
    const OwnedTensor all_weights = converted(row_weights.view({top_k}), f64);
    std::vector<double> sum(static_cast<std::size_t>(x.dim(1)), 0.0);
    if (write == Write::accumulate) sum = test::values_of(before);
    for (std::int64_t j = 0; j < top_k; ++j) {
      ExpertOffsets offsets(experts + 1, 0);
      for (auto e = static_cast<std::size_t>(chosen[static_cast<std::size_t>(j)]); e < experts; ++e)
        offsets[e + 1] = 1;
      const OwnedTensor pre({1, up->dim(1)}, f64, Device::cpu());
      const OwnedTensor y(x.shape(), f64, Device::cpu());
      feed_forward_forward(activation, {*up, *down, *a}, *row, offsets, all_weights->rows(j, j + 1),
                           *pre, *y, scratch, cpu);
      const std::vector<double> values = test::values_of(*y);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
    }
    return tensor_of(x.shape(), f64, sum);
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, ChosenExpertsDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(ChosenExpertsDevices, IsTheSumOverTheChosenExperts) {
  for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::swiglu}) {
    // The second is not made of vectors of 16 bytes.
    for (const Sizes& sizes :
         {Sizes{256, 320, false}, Sizes{33, 21, false}, Sizes{64, 1536, true}}) {
      if (sizes.coefficients_per_expert && kind == ActivationKind::swiglu) continue;
      for (const Write write : {Write::overwrite, Write::accumulate}) {
        SCOPED_TRACE(std::string(name_of(kind)) + ", hidden " + std::to_string(sizes.hidden));
        expect_sum({.kind = kind}, sizes, write);
      }
    }
  }
}

}  // namespace
}  // namespace polymoe
