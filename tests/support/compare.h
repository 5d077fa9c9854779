// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "runtime/tensor.h"

namespace polymoe::test {

/// |actual - expected| <= absolute + relative * |expected|, element by element.
struct Tolerance {
  double relative = 0.0;
  double absolute = 0.0;
};

/// f64: 1e-11 and 1e-12; f32: 1e-5 and 1e-6.
Tolerance tolerance_of(DType dtype);

/// Fails on a different shape, on any NaN, and on the worst element beyond the tolerance, which
/// the message names with index, values and error.
::testing::AssertionResult all_close(const Tensor& actual, const Tensor& expected,
                                     Tolerance tolerance);
::testing::AssertionResult all_close(const std::vector<double>& actual,
                                     const std::vector<double>& expected, Tolerance tolerance);

/// The same shape, dtype and bytes.
::testing::AssertionResult bitwise_equal(const Tensor& actual, const Tensor& expected);

/// ||actual - expected|| / ||expected|| (Euclidean); NaN if any element is.
double relative_error(const Tensor& actual, const Tensor& expected);

}  // namespace polymoe::test
