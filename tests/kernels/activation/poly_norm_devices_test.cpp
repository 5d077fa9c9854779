// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/activation/activation.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::norm_tolerance;
using test::random_tensor;
using test::relative_error;
using test::values_of;

class PolyNormDevices : public test::OnDevice {
 protected:
  // Forward and backward on the device against the CPU in f64 on the same rounded values.
  void compare(const PolyNorm& norm, const Shape& shape, double magnitude) {
    SCOPED_TRACE(to_string(shape) + " order " + std::to_string(norm.order) + " magnitude " +
                 std::to_string(magnitude));
    const OwnedTensor x = random_tensor(shape, dtype(), "x", {0.1, magnitude});
    const OwnedTensor d_y = random_tensor(shape, dtype(), "d_y");
    const OwnedTensor a = random_tensor({norm.order + 1}, wide_dtype(), "a", {0.3, 0.5});
    const OwnedTensor d_a = random_tensor(a->shape(), wide_dtype(), "d_a");

    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
    const OwnedTensor x64 = test::converted(*x, DType::f64),
                      d_y64 = test::converted(*d_y, DType::f64),
                      a64 = test::converted(*a, DType::f64),
                      d_a64 = test::converted(*d_a, DType::f64),
                      y64 = test::poisoned_tensor(shape, DType::f64),
                      d_x64 = test::poisoned_tensor(shape, DType::f64);
    poly_norm_forward(norm, *x64, *a64, *y64, cpu);
    poly_norm_backward(norm, *d_y64, *x64, *a64, *d_x64, *d_a64, scratch, cpu);

    const OwnedTensor on_x = moved(*x), on_d_y = moved(*d_y), on_a = moved(*a),
                      on_d_a = moved(*d_a), y = poisoned(shape, dtype()),
                      d_x = poisoned(shape, dtype());
    poly_norm_forward(norm, *on_x, *on_a, *y, stream());
    poly_norm_backward(norm, *on_d_y, *on_x, *on_a, *d_x, *on_d_a, arena(), stream());
    EXPECT_LE(relative_error(*fetched(*y), *y64), norm_tolerance(dtype()));
    EXPECT_LE(relative_error(*fetched(*d_x), *d_x64), norm_tolerance(dtype()));
    // Sums of f32 products of either dtype, with cancellation.
    EXPECT_LE(relative_error(*fetched(*on_d_a), *d_a64), 1e-4);
  }
};
INSTANTIATE_TEST_SUITE_P(All, PolyNormDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Widths of one element, off the vectors, of one warp, several, and beyond what registers hold.
TEST_P(PolyNormDevices, AgreesWithDoubleAtEveryWidth) {
  for (const std::int64_t width : {1, 7, 8, 100, 1024, 1536, 2048, 4104, 8256, 16384, 33024}) {
    compare({}, {width > 10000 ? 3 : 37, width}, 1.0);
  }
}

TEST_P(PolyNormDevices, AgreesWithDoubleAtEveryOrderAndMagnitude) {
  for (const int order : {2, 3, 4}) {
    for (const bool rectified : {false, true}) {
      for (const double magnitude : {1e-2, 1.0, 10.0}) {
        compare({order, 1e-6, rectified}, {19, 1536}, magnitude);
        compare({order, 1e-6, rectified}, {9, 2052}, magnitude);
        compare({order, 1e-6, rectified}, {9, 33}, magnitude);
      }
    }
  }
}

// More rows than blocks: every block works on several.
TEST_P(PolyNormDevices, AgreesWithDoubleOnManyRows) {
  compare({}, {2048 * 8 + 5, 24}, 1.0);
  compare({}, {4099, 264}, 1.0);
}

TEST_P(PolyNormDevices, MayOverwriteEitherInputAndRepeatsItsBits) {
  const Shape shape{301, 1536};
  const OwnedTensor x = random_tensor(shape, dtype(), "x"),
                    d_y = random_tensor(shape, dtype(), "g");
  const OwnedTensor a = moved(*random_tensor({4}, wide_dtype(), "a"));
  const OwnedTensor over_x = moved(*x), over_d_y = moved(*d_y), y = poisoned(shape, dtype()),
                    d_x = poisoned(shape, dtype());
  const OwnedTensor first(a->shape(), wide_dtype(), device()),
      second(a->shape(), wide_dtype(), device());
  poly_norm_forward({}, *over_x, *a, *y, stream());
  poly_norm_backward({}, *over_d_y, *over_x, *a, *d_x, *first, arena(), stream());
  poly_norm_backward({}, *over_d_y, *over_x, *a, *over_d_y, *second, arena(), stream());
  poly_norm_forward({}, *over_x, *a, *over_x, stream());
  EXPECT_TRUE(test::bitwise_equal(*fetched(*over_d_y), *fetched(*d_x)));
  EXPECT_TRUE(test::bitwise_equal(*fetched(*second), *fetched(*first)));
  EXPECT_TRUE(test::bitwise_equal(*fetched(*over_x), *fetched(*y)));
}

TEST_P(PolyNormDevices, PassesOnWhatIsNotFinite) {
  OwnedTensor x = random_tensor({2, 1536}, DType::f64, "x");
  x->data<double>()[100] = NAN;
  const OwnedTensor on_x = moved(*x, dtype()), a = moved(*random_tensor({4}, wide_dtype(), "a"));
  const OwnedTensor y = poisoned(x->shape(), dtype());
  for (const bool rectified : {false, true}) {
    poly_norm_forward({3, 1e-6, rectified}, *on_x, *a, *y, stream());
    const std::vector<double> values = values_of(*fetched(*y));
    EXPECT_TRUE(std::isnan(values[0]) && std::isnan(values[1535]));
    EXPECT_FALSE(std::isnan(values[1536]));
  }
}

TEST_P(PolyNormDevices, NoRows) {
  const OwnedTensor x({0, 1536}, dtype(), device()),
      a = moved(*random_tensor({4}, wide_dtype(), "a"));
  const OwnedTensor d_a = moved(*random_tensor({4}, wide_dtype(), "d_a"));
  poly_norm_forward({}, *x, *a, *x, stream());
  poly_norm_backward({}, *x, *x, *a, *x, *d_a, arena(), stream());
  EXPECT_TRUE(test::bitwise_equal(*fetched(*d_a),
                                  *fetched(*moved(*random_tensor({4}, wide_dtype(), "d_a")))));
}

}  // namespace
}  // namespace polymoe
