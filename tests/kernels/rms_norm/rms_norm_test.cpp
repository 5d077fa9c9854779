// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm/rms_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <string>

#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::poisoned_tensor;
using test::random_tensor;
using test::tolerance_of;

constexpr double epsilon = 1e-5;

class RmsNorm : public ::testing::TestWithParam<DType> {
 protected:
  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true}};
  Stream stream_{Device::cpu()};
};

TEST_P(RmsNorm, MatchesPyTorch) {
  const DType dtype = GetParam();
  const test::Fixture fixture("rms_norm.txt");
  const OwnedTensor x = fixture.tensor("x", dtype), weight = fixture.tensor("weight", dtype);
  const OwnedTensor d_y = fixture.tensor("d_y", dtype);
  const std::int64_t rows = x->dim(0);
  OwnedTensor y = poisoned_tensor(x->shape(), dtype), inv_rms = poisoned_tensor({rows}, dtype);
  rms_norm_forward(*x, *weight, epsilon, *y, *inv_rms, stream_);
  EXPECT_TRUE(all_close(*y, *fixture.tensor("y", dtype), tolerance_of(dtype)));

  OwnedTensor d_x = poisoned_tensor(x->shape(), dtype);
  OwnedTensor d_weight(weight->shape(), dtype, Device::cpu());
  rms_norm_backward(*d_y, *x, *inv_rms, *weight, Write::overwrite, *d_x, *d_weight, scratch_,
                    stream_);
  EXPECT_TRUE(all_close(*d_x, *fixture.tensor("d_x", dtype), tolerance_of(dtype)));
  EXPECT_TRUE(all_close(*d_weight, *fixture.tensor("d_weight", dtype), tolerance_of(dtype)));
}

TEST_P(RmsNorm, AddsTheResidualInTheSamePass) {
  const DType dtype = GetParam();
  const Shape shape{35, 130};
  const OwnedTensor x = random_tensor(shape, dtype, "x"), delta = random_tensor(shape, dtype, "d");
  const OwnedTensor weight = random_tensor({130}, dtype, "weight");
  OwnedTensor sum = poisoned_tensor(shape, dtype), y = poisoned_tensor(shape, dtype);
  OwnedTensor inv_rms = poisoned_tensor({35}, dtype);
  add_rms_norm_forward(*x, *delta, *weight, epsilon, *sum, *y, *inv_rms, stream_);

  std::vector<double> expected = test::values_of(*x);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += test::values_of(*delta)[i];
  const double rounding = dtype == DType::f64 ? 0x1p-52 : 0x1p-23;
  EXPECT_TRUE(all_close(test::values_of(*sum), expected, {rounding, 0.0}));

  OwnedTensor y_alone = poisoned_tensor(shape, dtype), inv_alone = poisoned_tensor({35}, dtype);
  rms_norm_forward(*sum, *weight, epsilon, *y_alone, *inv_alone, stream_);
  EXPECT_TRUE(bitwise_equal(*y, *y_alone));
  EXPECT_TRUE(bitwise_equal(*inv_rms, *inv_alone));

  // The sum may replace either term, and y may replace x.
  OwnedTensor in_place = random_tensor(shape, dtype, "x");
  add_rms_norm_forward(*in_place, *delta, *weight, epsilon, *in_place, *y_alone, *inv_alone,
                       stream_);
  EXPECT_TRUE(bitwise_equal(*in_place, *sum));
  rms_norm_forward(*in_place, *weight, epsilon, *in_place, *inv_alone, stream_);
  EXPECT_TRUE(bitwise_equal(*in_place, *y));
}

TEST_P(RmsNorm, BackwardAccumulatesAndAliases) {
  const DType dtype = GetParam();
  const Shape shape{50, 33};
  const OwnedTensor x = random_tensor(shape, dtype, "x"), d_y = random_tensor(shape, dtype, "d_y");
  const OwnedTensor weight = random_tensor({33}, dtype, "weight");
  OwnedTensor y = poisoned_tensor(shape, dtype), inv_rms = poisoned_tensor({50}, dtype);
  rms_norm_forward(*x, *weight, epsilon, *y, *inv_rms, stream_);
  OwnedTensor d_x = poisoned_tensor(shape, dtype), d_weight({33}, dtype, Device::cpu());
  rms_norm_backward(*d_y, *x, *inv_rms, *weight, Write::overwrite, *d_x, *d_weight, scratch_,
                    stream_);

  OwnedTensor aliased = random_tensor(shape, dtype, "d_y"),
              d_weight_too = random_tensor({33}, dtype, "w");
  std::vector<double> expected = test::values_of(*d_weight_too);
  rms_norm_backward(*aliased, *x, *inv_rms, *weight, Write::overwrite, *aliased, *d_weight_too,
                    scratch_, stream_);
  EXPECT_TRUE(bitwise_equal(*aliased, *d_x));
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += test::values_of(*d_weight)[i];
  EXPECT_TRUE(all_close(test::values_of(*d_weight_too), expected, tolerance_of(dtype)));

  OwnedTensor added = random_tensor(shape, dtype, "start");
  expected = test::values_of(*added);
  rms_norm_backward(*d_y, *x, *inv_rms, *weight, Write::accumulate, *added, *d_weight_too, scratch_,
                    stream_);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += test::values_of(*d_x)[i];
  EXPECT_TRUE(all_close(test::values_of(*added), expected, tolerance_of(dtype)));
}

TEST_P(RmsNorm, DoesNotDependOnTheNumberOfThreads) {
  const DType dtype = GetParam();
  const Shape shape{1003, 70};
  const OwnedTensor x = random_tensor(shape, dtype, "x"), d_y = random_tensor(shape, dtype, "d_y");
  const OwnedTensor weight = random_tensor({70}, dtype, "weight");
  const int threads = omp_get_max_threads();
  OwnedTensor y[2], d_x[2], d_weight[2];
  for (const int run : {0, 1}) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    const auto at = static_cast<std::size_t>(run);
    OwnedTensor inv_rms = poisoned_tensor({1003}, dtype);
    y[at] = poisoned_tensor(shape, dtype);
    d_x[at] = poisoned_tensor(shape, dtype);
    d_weight[at] = OwnedTensor({70}, dtype, Device::cpu());
    rms_norm_forward(*x, *weight, epsilon, *y[at], *inv_rms, stream_);
    rms_norm_backward(*d_y, *x, *inv_rms, *weight, Write::overwrite, *d_x[at], *d_weight[at],
                      scratch_, stream_);
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(bitwise_equal(*y[0], *y[1]));
  EXPECT_TRUE(bitwise_equal(*d_x[0], *d_x[1]));
  EXPECT_TRUE(bitwise_equal(*d_weight[0], *d_weight[1]));
}

TEST_P(RmsNorm, NoRowsAreFine) {
  const DType dtype = GetParam();
  const OwnedTensor none({0, 8}, dtype, Device::cpu()), no_rms({0}, dtype, Device::cpu());
  const OwnedTensor weight = random_tensor({8}, dtype, "weight");
  OwnedTensor d_weight = random_tensor({8}, dtype, "start");
  const OwnedTensor before = random_tensor({8}, dtype, "start");
  rms_norm_forward(*none, *weight, epsilon, *none, *no_rms, stream_);
  rms_norm_backward(*none, *none, *no_rms, *weight, Write::overwrite, *none, *d_weight, scratch_,
                    stream_);
  EXPECT_TRUE(bitwise_equal(*d_weight, *before));
}

INSTANTIATE_TEST_SUITE_P(All, RmsNorm, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

TEST(RmsNormGradient, MatchesDifferences) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
  Stream stream(Device::cpu());
  const Shape shape{19, 11};
  const OwnedTensor x = random_tensor(shape, DType::f64, "x", {0.5, 2.0});
  const OwnedTensor weight = random_tensor({11}, DType::f64, "weight");
  const OwnedTensor d_y = random_tensor(shape, DType::f64, "d_y");
  OwnedTensor y = poisoned_tensor(shape, DType::f64), inv_rms = poisoned_tensor({19}, DType::f64);
  const auto loss = [&] {
    rms_norm_forward(*x, *weight, epsilon, *y, *inv_rms, stream);
    return test::inner_product(*d_y, *y);
  };
  loss();
  OwnedTensor d_x = poisoned_tensor(shape, DType::f64), d_weight({11}, DType::f64, Device::cpu());
  rms_norm_backward(*d_y, *x, *inv_rms, *weight, Write::overwrite, *d_x, *d_weight, scratch,
                    stream);
  EXPECT_TRUE(test::gradient_matches("x", *x, *d_x, loss));
  EXPECT_TRUE(test::gradient_matches("weight", *weight, *d_weight, loss));
}

TEST(RmsNormErrors, NameTheArgument) {
  Stream stream(Device::cpu());
  const OwnedTensor x = random_tensor({3, 4}, DType::f32, "x");
  const OwnedTensor weight = random_tensor({5}, DType::f32, "weight");
  const OwnedTensor inv_rms({3}, DType::f32, Device::cpu());
  try {
    rms_norm_forward(*x, *weight, epsilon, *x, *inv_rms, stream);
    FAIL() << "accepted a weight of another width";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "rms_norm_forward: weight has shape [5], expected [4]");
  }
  const OwnedTensor integers({3, 4}, DType::i32, Device::cpu());
  EXPECT_THROW(rms_norm_forward(*integers, *weight, epsilon, *x, *inv_rms, stream),
               InvalidArgument);
  EXPECT_THROW(rms_norm_forward(Tensor{}, *weight, epsilon, *x, *inv_rms, stream), InvalidArgument);
}

TEST(RmsNormOnMeta, TakesTheSameScratch) {
  std::size_t high_water[2];
  for (const Device device : {Device::cpu(), Device::meta()}) {
    Arena scratch({.device = device, .capacity = std::size_t{1} << 24, .poison = false});
    Stream stream(device);
    const OwnedTensor x({300, 64}, DType::f32, device), weight({64}, DType::f32, device);
    const OwnedTensor inv_rms({300}, DType::f32, device);
    rms_norm_backward(*x, *x, *inv_rms, *weight, Write::overwrite, *x, *weight, scratch, stream);
    EXPECT_EQ(scratch.mark(), 0u);
    high_water[device == Device::meta() ? 1 : 0] = scratch.high_water();
  }
  EXPECT_GT(high_water[0], 0u);
  EXPECT_EQ(high_water[0], high_water[1]);
}

}  // namespace
}  // namespace polymoe
