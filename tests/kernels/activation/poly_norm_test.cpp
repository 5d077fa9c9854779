// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "support/compare.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::poisoned_tensor;
using test::random_tensor;
using test::tensor_of;
using test::values_of;

// The contract's formulas, term by term in long double: n(x^p), S_p and r_p as they are written.
struct Expected {
  std::vector<double> y, d_x, d_a;
};

Expected expected_of(const PolyNorm& norm, const Tensor& x, const Tensor& a, const Tensor& d_y) {
  using Real = long double;
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  const std::vector<double> in = values_of(x), c = values_of(a), grad = values_of(d_y);
  Expected result{std::vector<double>(in.size()), std::vector<double>(in.size()),
                  std::vector<double>(c.size())};
  std::vector<Real> d_a(c.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t j = 0; j < width; ++j) {
      const auto at = static_cast<std::size_t>(row * width + j);
      result.y[at] = c[0];
      d_a[0] += grad[at];
    }
    for (int p = 1; p <= norm.order; ++p) {
      const auto power = [&](std::int64_t j, int exponent) -> Real {
        const Real value = in[static_cast<std::size_t>(row * width + j)];
        return std::pow(norm.rectified && value < 0 ? Real{0} : value, exponent);
      };
      Real square = 0, product = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        square += power(j, 2 * p);
        product += grad[static_cast<std::size_t>(row * width + j)] * power(j, p);
      }
      const Real r = 1 / std::sqrt(square / static_cast<Real>(width) + Real{norm.epsilon});
      const Real ap = c[static_cast<std::size_t>(p)];
      d_a[static_cast<std::size_t>(p)] += r * product;
      for (std::int64_t j = 0; j < width; ++j) {
        const auto at = static_cast<std::size_t>(row * width + j);
        result.y[at] += static_cast<double>(ap * r * power(j, p));
        if (norm.rectified && in[at] <= 0) continue;
        result.d_x[at] +=
            static_cast<double>(ap * (static_cast<Real>(p) * power(j, p - 1) * r * grad[at] -
                                      static_cast<Real>(p) / static_cast<Real>(width) *
                                          power(j, 2 * p - 1) * r * r * r * product));
      }
    }
  }
  for (std::size_t p = 0; p < c.size(); ++p) result.d_a[p] = static_cast<double>(d_a[p]);
  return result;
}

class PolyNormOperation : public ::testing::TestWithParam<std::tuple<DType, int, bool>> {
 protected:
  DType dtype_ = std::get<0>(GetParam());
  PolyNorm norm_{std::get<1>(GetParam()), 1e-6, std::get<2>(GetParam())};
  Stream stream_{Device::cpu()};
  Arena arena_{{.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true}};
};

std::string name_of_arguments(const ::testing::TestParamInfo<std::tuple<DType, int, bool>>& test) {
  return std::string(name_of(std::get<0>(test.param))) + "_order" +
         std::to_string(std::get<1>(test.param)) + (std::get<2>(test.param) ? "_rectified" : "");
}

INSTANTIATE_TEST_SUITE_P(All, PolyNormOperation,
                         ::testing::Combine(::testing::Values(DType::f32, DType::f64),
                                            ::testing::Values(2, 3, 4), ::testing::Bool()),
                         name_of_arguments);

// Differences need double.
class PolyNormInDouble : public PolyNormOperation {};
INSTANTIATE_TEST_SUITE_P(All, PolyNormInDouble,
                         ::testing::Combine(::testing::Values(DType::f64),
                                            ::testing::Values(2, 3, 4), ::testing::Bool()),
                         name_of_arguments);

TEST_P(PolyNormOperation, IsTheFormulaAtEveryMagnitude) {
  const double tolerance = dtype_ == DType::f64 ? 1e-13 : 5e-6;
  // Widths below, at and across vector lengths; magnitudes where epsilon rules, and where x^8 is
  // about 1e12.
  for (const std::int64_t width : {1, 15, 16, 100, 1536}) {
    for (const double magnitude : {1e-3, 1.0, 10.0}) {
      const OwnedTensor x = random_tensor({9, width}, dtype_, "x", {0.0, magnitude});
      const OwnedTensor d_y = random_tensor({9, width}, dtype_, "d_y");
      const OwnedTensor a = random_tensor({norm_.order + 1}, dtype_, "a", {0.3, 0.5});
      const Expected expected = expected_of(norm_, *x, *a, *d_y);
      OwnedTensor y = poisoned_tensor(x->shape(), dtype_),
                  d_x = poisoned_tensor(x->shape(), dtype_);
      OwnedTensor d_a(a->shape(), dtype_, Device::cpu());
      poly_norm_forward(norm_, *x, *a, *y, stream_);
      poly_norm_backward(norm_, *d_y, *x, *a, *d_x, *d_a, arena_, stream_);
      EXPECT_TRUE(test::all_close(values_of(*y), expected.y, {tolerance, tolerance * 10}))
          << width << " " << magnitude;
      const double slope = 1.0 / magnitude;
      EXPECT_TRUE(
          test::all_close(values_of(*d_x), expected.d_x, {tolerance, tolerance * 30 * slope}))
          << width << " " << magnitude;
      EXPECT_TRUE(test::all_close(values_of(*d_a), expected.d_a,
                                  {tolerance * 10, tolerance * std::sqrt(9.0 * width)}))
          << width << " " << magnitude;
    }
  }
}

TEST_P(PolyNormInDouble, GradientsMatchDifferences) {
  const OwnedTensor x = random_tensor({4, 13}, DType::f64, "x", {0.2, 1.0});
  for (std::int64_t i = 0; i < x->elements(); ++i) {  // away from the kink at zero
    double& value = x->data<double>()[i];
    if (std::abs(value) < 0.05) value = std::copysign(0.05, value);
  }
  const OwnedTensor d_y = random_tensor({4, 13}, DType::f64, "d_y");
  const OwnedTensor a = random_tensor({norm_.order + 1}, DType::f64, "a");
  OwnedTensor y = poisoned_tensor({4, 13}, DType::f64), d_x = poisoned_tensor({4, 13}, DType::f64);
  OwnedTensor d_a(a->shape(), DType::f64, Device::cpu());
  poly_norm_backward(norm_, *d_y, *x, *a, *d_x, *d_a, arena_, stream_);
  const auto loss = [&] {
    poly_norm_forward(norm_, *x, *a, *y, stream_);
    return test::inner_product(*d_y, *y);
  };
  EXPECT_TRUE(test::gradient_matches("x", *x, *d_x, loss));
  EXPECT_TRUE(test::gradient_matches("a", *a, *d_a, loss));
}

TEST_P(PolyNormOperation, AccumulatesAndMayOverwriteEitherInput) {
  const OwnedTensor a = random_tensor({norm_.order + 1}, dtype_, "a");
  OwnedTensor d_x = poisoned_tensor({70, 40}, dtype_);
  OwnedTensor d_a = random_tensor(a->shape(), dtype_, "d_a");
  const std::vector<double> start = values_of(*d_a);
  const OwnedTensor x = random_tensor({70, 40}, dtype_, "x");
  const OwnedTensor d_y = random_tensor({70, 40}, dtype_, "d_y");
  poly_norm_backward(norm_, *d_y, *x, *a, *d_x, *d_a, arena_, stream_);
  OwnedTensor fresh(a->shape(), dtype_, Device::cpu());
  OwnedTensor over_d_y = random_tensor({70, 40}, dtype_, "d_y");
  poly_norm_backward(norm_, *over_d_y, *x, *a, *over_d_y, *fresh, arena_, stream_);
  EXPECT_TRUE(test::bitwise_equal(*over_d_y, *d_x));
  std::vector<double> sum = values_of(*fresh);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += start[i];
  EXPECT_TRUE(test::all_close(values_of(*d_a), sum, test::tolerance_of(dtype_)));
  poly_norm_backward(norm_, *d_y, *x, *a, *x, *fresh, arena_, stream_);
  EXPECT_TRUE(test::bitwise_equal(*x, *d_x));
}

TEST_P(PolyNormOperation, LargeOutputsThatPassTheCachesAreTheSame) {
  // Above 24 MiB the outputs are written by streaming stores; thread count must not matter either.
  const std::int64_t width = 256, rows = (std::int64_t{25} << 20) / (width * 4);
  const OwnedTensor a = random_tensor({norm_.order + 1}, dtype_, "a");
  OwnedTensor x(Shape{rows, width}, dtype_, Device::cpu());
  const OwnedTensor some = random_tensor({1, width}, dtype_, "x");
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(x->rows(r, r + 1).raw(), some->raw(), some->bytes());
  }
  OwnedTensor y = poisoned_tensor(x->shape(), dtype_), one = poisoned_tensor({1, width}, dtype_);
  poly_norm_forward(norm_, *x, *a, *y, stream_);
  poly_norm_forward(norm_, *some, *a, *one, stream_);
  for (std::int64_t r = 0; r < rows; r += 997) {
    ASSERT_TRUE(test::bitwise_equal(y->rows(r, r + 1), *one)) << r;
  }
  EXPECT_TRUE(test::bitwise_equal(y->rows(rows - 1, rows), *one));
}

TEST(PolyNormErrors, NameArgumentAndValue) {
  Stream stream(Device::cpu());
  Arena arena({.device = Device::cpu(), .capacity = 1 << 20, .poison = false});
  const OwnedTensor x = random_tensor({2, 8}, DType::f32, "x");
  const OwnedTensor a = random_tensor({4}, DType::f32, "a");
  EXPECT_THROW(poly_norm_forward({1, 1e-6, false}, *x, *a, *x, stream), InvalidArgument);
  EXPECT_THROW(poly_norm_forward({3, 0.0, false}, *x, *a, *x, stream), InvalidArgument);
  try {
    poly_norm_forward({4, 1e-6, false}, *x, *a, *x, stream);
    FAIL() << "accepted 4 coefficients for order 4";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "poly_norm_forward: coefficients has shape [4], expected [5]");
  }
  const OwnedTensor f64 = random_tensor({2, 8}, DType::f64, "x");
  EXPECT_THROW(poly_norm_backward({3, 1e-6, false}, *f64, *x, *a, *x, *a, arena, stream),
               InvalidArgument);
}

TEST(PolyNormEdges, NoRowsAndMeta) {
  Stream stream(Device::cpu());
  Arena arena({.device = Device::cpu(), .capacity = 1 << 20, .poison = false});
  const OwnedTensor x({0, 8}, DType::f32, Device::cpu());
  const OwnedTensor a = random_tensor({4}, DType::f32, "a");
  const OwnedTensor d_a = random_tensor({4}, DType::f32, "d_a");
  poly_norm_forward({}, *x, *a, *x, stream);
  poly_norm_backward({}, *x, *x, *a, *x, *d_a, arena, stream);
  EXPECT_TRUE(test::bitwise_equal(*d_a, *random_tensor({4}, DType::f32, "d_a")));

  // The plan counts the scratch that the real run takes.
  Stream meta(Device::meta());
  Arena plan({.device = Device::meta()});
  const OwnedTensor big({4096, 1536}, DType::f32, Device::meta());
  const OwnedTensor big_a({4}, DType::f32, Device::meta());
  poly_norm_backward({}, *big, *big, *big_a, *big, *big_a, plan, meta);
  EXPECT_EQ(plan.high_water(), 2049u * 4u * 8u + 32u);  // rounded up to 64
}

}  // namespace
}  // namespace polymoe
