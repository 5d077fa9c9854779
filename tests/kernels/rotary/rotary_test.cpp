// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/rotary.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <vector>

#include "support/compare.h"
#include "support/fixture.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::all_close;
using test::random_tensor;
using test::tolerance_of;
using test::values_of;

class Rotary : public ::testing::TestWithParam<DType> {
 protected:
  Stream stream_{Device::cpu()};
};

TEST_P(Rotary, MatchesPyTorch) {
  const DType dtype = GetParam();
  const test::Fixture fixture("rotary.txt");
  const RotaryPositions positions{.sequence_length = 7, .first_position = 5, .theta = 1e4};
  OwnedTensor x = fixture.tensor("x", dtype), d_y = fixture.tensor("d_y", dtype);
  rotary_forward(positions, *x, stream_);
  EXPECT_TRUE(all_close(*x, *fixture.tensor("y", dtype), tolerance_of(dtype)));
  rotary_backward(positions, *d_y, stream_);
  EXPECT_TRUE(all_close(*d_y, *fixture.tensor("d_x", dtype), tolerance_of(dtype)));
}

// The definition at positions far from the origin, heads wider than one block of pairs, and a last
// sequence that is cut short.
TEST_P(Rotary, IsTheDefinitionFarOut) {
  const DType dtype = GetParam();
  const std::int64_t rows = 250, heads = 2, dim = 70, length = 150, first = 100000;
  const double theta = 5e5;
  OwnedTensor x = random_tensor({rows, heads, dim}, dtype, "x");
  const std::vector<double> before = values_of(*x);
  std::vector<double> expected(before.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < dim / 2; ++i) {
      const double angle =
          static_cast<double>(first + row % length) *
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      for (std::int64_t head = 0; head < heads; ++head) {
        const auto low = static_cast<std::size_t>((row * heads + head) * dim + i);
        const std::size_t high = low + static_cast<std::size_t>(dim / 2);
        expected[low] = before[low] * std::cos(angle) - before[high] * std::sin(angle);
        expected[high] = before[high] * std::cos(angle) + before[low] * std::sin(angle);
      }
    }
  }
  const RotaryPositions positions{
      .sequence_length = length, .first_position = first, .theta = theta};
  rotary_forward(positions, *x, stream_);
  const double tolerance = dtype == DType::f64 ? 1e-10 : 1e-6;  // angles of 1e5 have ulp 1.5e-11
  EXPECT_TRUE(all_close(values_of(*x), expected, {0.0, tolerance}));
  rotary_backward(positions, *x, stream_);
  EXPECT_TRUE(all_close(values_of(*x), before, {0.0, dtype == DType::f64 ? 1e-13 : 1e-6}));
}

TEST_P(Rotary, OneRowAtATimeIsTheWholeSequence) {
  const DType dtype = GetParam();
  const std::int64_t rows = 130;
  OwnedTensor whole = random_tensor({rows, 3, 8}, dtype, "x");
  OwnedTensor single = random_tensor({rows, 3, 8}, dtype, "x");
  rotary_forward({.sequence_length = rows, .first_position = 0, .theta = 1e4}, *whole, stream_);
  for (std::int64_t row = 0; row < rows; ++row) {
    rotary_forward({.sequence_length = 1, .first_position = row, .theta = 1e4},
                   single->rows(row, row + 1), stream_);
  }
  EXPECT_TRUE(test::bitwise_equal(*single, *whole));
}

TEST_P(Rotary, DoesNotDependOnTheNumberOfThreads) {
  const int threads = omp_get_max_threads();
  OwnedTensor x[2];
  for (const int run : {0, 1}) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    const auto at = static_cast<std::size_t>(run);
    x[at] = random_tensor({390, 2, 16}, GetParam(), "x");
    rotary_forward({.sequence_length = 195, .first_position = 3, .theta = 1e4}, *x[at], stream_);
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(test::bitwise_equal(*x[0], *x[1]));
}

TEST_P(Rotary, NoRowsAreFineAndErrorsSayWhy) {
  const RotaryPositions positions{.sequence_length = 4, .first_position = 0, .theta = 1e4};
  const OwnedTensor none({0, 2, 4}, GetParam(), Device::cpu());
  EXPECT_NO_THROW(rotary_forward(positions, *none, stream_));
  const OwnedTensor odd({4, 2, 5}, GetParam(), Device::cpu());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { rotary_forward(positions, *odd, stream_); }),
            "rotary_forward: the head dimension is 5, expected an even number");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { rotary_backward({}, *none, stream_); }),
            "rotary_backward: sequence_length is 0, expected at least 1");
}

INSTANTIATE_TEST_SUITE_P(All, Rotary, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace polymoe
