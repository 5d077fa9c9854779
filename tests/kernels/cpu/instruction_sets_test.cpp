// SPDX-License-Identifier: Apache-2.0
// The vector code exists once per instruction set and a machine runs its best one. Here every one
// that the machine has runs, down to the plain baseline.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/activation/poly_norm.h"
#include "kernels/adamw/adamw.h"
#include "kernels/attention/attention.h"
#include "kernels/output_loss/output_loss.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "runtime/float16.h"
#include "support/compare.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::poisoned_tensor;
using test::random_tensor;

struct Result {
  std::string name;
  OwnedTensor tensor;
};
using Results = std::vector<Result>;

OwnedTensor zeros(const Shape& shape, DType dtype) { return {shape, dtype, Device::cpu()}; }

// Every vectorised operation once, on rows that are no multiple of a vector.
Results run_all(DType dtype) {
  Stream stream(Device::cpu());
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true});
  Results results;
  const auto output = [&](const char* name, const Shape& shape) -> Tensor {
    return *results.emplace_back(name, poisoned_tensor(shape, dtype)).tensor;
  };
  // Outputs that are added to.
  const auto sums = [&](const char* name, const Shape& shape, DType type) -> Tensor {
    return *results.emplace_back(name, zeros(shape, type)).tensor;
  };
  const Shape shape{37, 83};
  const OwnedTensor x = random_tensor(shape, dtype, "x"), d_y = random_tensor(shape, dtype, "d_y");
  const OwnedTensor weight = random_tensor({83}, dtype, "weight");

  const Tensor inv_rms = output("inv_rms", {37});
  rms_norm_forward(*x, *weight, 1e-5, output("rms_norm y", shape), inv_rms, stream);
  rms_norm_backward(*d_y, *x, inv_rms, *weight, Write::overwrite, output("rms_norm d_x", shape),
                    sums("rms_norm d_weight", {83}, dtype), scratch, stream);

  const OwnedTensor coefficients = random_tensor({4}, dtype, "coefficients");
  poly_norm_forward({}, *x, *coefficients, output("poly_norm y", shape), stream);
  poly_norm_backward({}, *d_y, *x, *coefficients, output("poly_norm d_x", shape),
                     sums("poly_norm d_coefficients", {4}, dtype), scratch, stream);

  const Activation gelu{.kind = ActivationKind::gelu};
  activation_forward(gelu, *x, Tensor{}, {0, 37}, {}, output("gelu y", shape), stream);
  activation_backward(gelu, *d_y, *x, Tensor{}, {0, 37}, {},
                      {output("gelu d_x", shape), {}, {}, {}}, scratch, stream);

  results.push_back({"adamw parameter", random_tensor(shape, dtype, "parameter")});
  const Tensor parameter = *results.back().tensor;
  OptimizerState state;
  for (std::size_t i = 0; i < state.size(); ++i) {
    const std::string name = "adamw " + std::string(optimizer_state_kinds[i]);
    state[i] = sums(name.c_str(), shape, dtype);
  }
  adamw({.learning_rate = 0.1, .weight_decay = 0.1}, *x, parameter, state, {}, stream);
  if (dtype == DType::f32) {
    // Every product and sum is exact in f32, so that roundings to bf16 are all that there is.
    const auto narrow = [&](const std::string& name) -> Tensor {
      return *results.emplace_back(name, random_tensor(shape, DType::bf16, name, {10.0, 1.0}))
                  .tensor;
    };
    for (std::size_t i = 0; i < state.size(); ++i)
      state[i] = narrow("adamw bf16 " + std::string(optimizer_state_kinds[i]));
    const OwnedTensor gradient =
        test::converted(*random_tensor(shape, DType::bf16, "gradient"), DType::f32);
    adamw({.learning_rate = 0.0, .beta1 = 0.5, .beta2 = 0.5}, *gradient, parameter, state, {},
          stream);
    const OwnedTensor high = random_tensor(shape, DType::bf16, "high"),
                      low = zeros(shape, DType::u16);
    auto* lower = low->data<std::uint16_t>();
    for (std::int64_t i = 0; i < low->elements(); ++i)
      lower[i] = static_cast<std::uint16_t>(i * 40503);
    adamw({.learning_rate = 0.1, .beta1 = 0.5, .beta2 = 0.5}, *gradient, *high, state, *low,
          stream);
    float* joined = sums("adamw in two parts", shape, DType::f32).data<float>();
    for (std::int64_t i = 0; i < low->elements(); ++i)
      joined[i] = join_float({static_cast<const std::uint16_t*>(high->raw())[i], lower[i]});
  }
  sum(*x, sums("sum", {1}, DType::f64), scratch, stream);
  sum_of_squares(*x, sums("sum of squares", {1}, DType::f64), scratch, stream);

  for (const std::int64_t queries : {19, 1}) {
    const AttentionShape attention{1, queries, 27, 2, 1, 21};
    const Shape query_shape{queries, 2, 21}, key_shape{27, 1, 21};
    const OwnedTensor q = random_tensor(query_shape, dtype, "q");
    const OwnedTensor k = random_tensor(key_shape, dtype, "k");
    const OwnedTensor v = random_tensor(key_shape, dtype, "v");
    const OwnedTensor d_out = random_tensor(query_shape, dtype, "d_out");
    const Tensor out = output("attention out", query_shape);
    const Tensor log_sum_exp = output("attention log_sum_exp", {1, 2, queries});
    attention_forward(attention, *q, *k, *v, out, log_sum_exp, scratch, stream);
    attention_backward(attention, *d_out, *q, *k, *v, out, log_sum_exp,
                       output("attention d_q", query_shape), output("attention d_k", key_shape),
                       output("attention d_v", key_shape), scratch, stream);
  }

  const OwnedTensor projection = random_tensor({131, 83}, dtype, "projection");
  const OwnedTensor targets = zeros({37}, DType::i32);
  output_loss_forward_backward(*x, *projection, *targets, 0.5, output("token_loss", {37}),
                               output("output_loss d_x", shape),
                               sums("output_loss d_weight", {131, 83}, dtype), scratch, stream);
  return results;
}

class InstructionSets : public ::testing::TestWithParam<DType> {
 protected:
  void TearDown() override { hwy::GetChosenTarget().Update(hwy::SupportedTargets()); }
};

TEST_P(InstructionSets, Agree) {
  const double tolerance = GetParam() == DType::f64 ? 1e-13 : 3e-6;
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  const Results best = run_all(GetParam());
  for (const std::int64_t target : {HWY_AVX2, HWY_SCALAR}) {
    if ((hwy::SupportedTargets() & target) == 0 && target != HWY_SCALAR) continue;
    hwy::GetChosenTarget().Update(target);
    const Results results = run_all(GetParam());
    ASSERT_EQ(results.size(), best.size());
    std::size_t same_bits = 0;
    for (std::size_t i = 0; i < best.size(); ++i) {
      EXPECT_LT(test::relative_error(*results[i].tensor, *best[i].tensor), tolerance)
          << best[i].name << " with " << hwy::TargetName(target);
      same_bits += test::bitwise_equal(*results[i].tensor, *best[i].tensor) ? 1 : 0;
    }
    // Sums round differently in vectors of another width: other code did run.
    if ((hwy::SupportedTargets() & HWY_AVX3) != 0) {
      EXPECT_LT(same_bits, best.size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace polymoe
