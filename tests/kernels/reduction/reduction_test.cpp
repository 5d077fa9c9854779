// SPDX-License-Identifier: Apache-2.0
#include "kernels/reduction/reduction.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <vector>

#include "support/compare.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::poisoned_tensor;
using test::random_tensor;
using test::values_of;

class Reduction : public ::testing::TestWithParam<DType> {
 protected:
  double sum_of(const Tensor& x, bool squared) {
    OwnedTensor result = poisoned_tensor({1}, DType::f64);
    squared ? sum_of_squares(x, *result, scratch_, stream_) : sum(x, *result, scratch_, stream_);
    return result->data<double>()[0];
  }

  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true}};
  Stream stream_{Device::cpu()};
};

TEST_P(Reduction, SumsInDouble) {
  for (const std::int64_t count : {1, 7, 16, 1000, 32768, 100003}) {
    const OwnedTensor x = random_tensor({count}, GetParam(), "x", {100.0, 1.0});
    long double plain = 0.0L, squares = 0.0L;
    for (const double value : values_of(*x)) {
      plain += value;
      squares += static_cast<long double>(value) * value;
    }
    EXPECT_NEAR(sum_of(*x, false), static_cast<double>(plain), 1e-13 * static_cast<double>(plain));
    EXPECT_NEAR(sum_of(*x, true), static_cast<double>(squares),
                1e-13 * static_cast<double>(squares));
  }
}

TEST_P(Reduction, SquaresDoNotOverflowTheElementsType) {
  const double huge = GetParam() == DType::f32 ? 1e30 : 1e150;
  const OwnedTensor x = test::tensor_of({2}, GetParam(), {huge, -huge});
  const double value = values_of(*x)[0];
  EXPECT_DOUBLE_EQ(sum_of(*x, true), 2.0 * value * value);
  EXPECT_TRUE(std::isnan(sum_of(*poisoned_tensor({100}, GetParam()), true)));
}

TEST_P(Reduction, DoesNotDependOnTheNumberOfThreads) {
  const OwnedTensor x = random_tensor({200001}, GetParam(), "x");
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const double one = sum_of(*x, false), one_squares = sum_of(*x, true);
  omp_set_num_threads(3);
  EXPECT_EQ(sum_of(*x, false), one);
  EXPECT_EQ(sum_of(*x, true), one_squares);
  omp_set_num_threads(threads);
}

TEST_P(Reduction, NothingSumsToZero) {
  const OwnedTensor none({0, 3}, GetParam(), Device::cpu());
  EXPECT_EQ(sum_of(*none, false), 0.0);
  EXPECT_EQ(sum_of(*none, true), 0.0);
  EXPECT_NO_THROW(add(*none, *none, stream_));
  EXPECT_NO_THROW(fill(1.0, *none, stream_));
}

TEST_P(Reduction, AddsAndFills) {
  const Shape shape{33, 100};
  const OwnedTensor x = random_tensor(shape, GetParam(), "x");
  OwnedTensor y = random_tensor(shape, GetParam(), "y");
  std::vector<double> expected = values_of(*y);
  const std::vector<double> terms = values_of(*x);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += terms[i];
  add(*x, *y, stream_);
  EXPECT_TRUE(
      test::all_close(values_of(*y), expected, {GetParam() == DType::f64 ? 0.0 : 0x1p-23, 0.0}));
  fill(0.25, *y, stream_);
  EXPECT_EQ(values_of(*y), std::vector<double>(3300, 0.25));
}

TEST_P(Reduction, ErrorsNameTheArgument) {
  const OwnedTensor x = random_tensor({3}, GetParam(), "x"),
                    y = random_tensor({4}, GetParam(), "y");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { add(*x, *y, stream_); }),
            "add: y has shape [4], expected [3]");
  EXPECT_THROW(sum(*x, *x, scratch_, stream_), InvalidArgument);
  EXPECT_THROW(fill(0.0, Tensor{}, stream_), InvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(All, Reduction, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace polymoe
