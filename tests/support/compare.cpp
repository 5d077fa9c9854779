// SPDX-License-Identifier: Apache-2.0
#include "support/compare.h"

#include <cmath>
#include <cstring>
#include <iomanip>

#include "support/random_tensor.h"

namespace polymoe::test {

Tolerance tolerance_of(DType dtype) {
  return dtype == DType::f64 ? Tolerance{1e-11, 1e-12} : Tolerance{1e-5, 1e-6};
}

::testing::AssertionResult all_close(const std::vector<double>& actual,
                                     const std::vector<double>& expected, Tolerance tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure()
           << actual.size() << " elements, expected " << expected.size();
  }
  std::size_t worst = 0;
  double worst_excess = -1.0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    const double allowed = tolerance.absolute + tolerance.relative * std::abs(expected[i]);
    if (error <= allowed) continue;
    const double excess = std::isnan(error) ? HUGE_VAL : error - allowed;
    if (excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (worst_excess < 0.0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << std::setprecision(17) << "element " << worst << " of " << actual.size() << " is "
         << actual[worst] << ", expected " << expected[worst] << ", error "
         << std::abs(actual[worst] - expected[worst]) << ", allowed " << tolerance.relative
         << " relative + " << tolerance.absolute;
}

::testing::AssertionResult all_close(const Tensor& actual, const Tensor& expected,
                                     Tolerance tolerance) {
  if (actual.shape() != expected.shape()) {
    return ::testing::AssertionFailure()
           << "shape " << to_string(actual.shape()) << ", expected " << to_string(expected.shape());
  }
  return all_close(values_of(actual), values_of(expected), tolerance);
}

::testing::AssertionResult bitwise_equal(const Tensor& actual, const Tensor& expected) {
  if (actual.shape() != expected.shape() || actual.dtype() != expected.dtype()) {
    return ::testing::AssertionFailure()
           << name_of(actual.dtype()) << " " << to_string(actual.shape()) << ", expected "
           << name_of(expected.dtype()) << " " << to_string(expected.shape());
  }
  const auto* left = static_cast<const unsigned char*>(actual.raw());
  const auto* right = static_cast<const unsigned char*>(expected.raw());
  for (std::size_t i = 0; i < actual.bytes(); ++i) {
    if (left[i] == right[i]) continue;
    return ::testing::AssertionFailure() << "element " << i / size_of(actual.dtype()) << " of "
                                         << actual.elements() << " differs";
  }
  return ::testing::AssertionSuccess();
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  const std::vector<double> left = values_of(actual), right = values_of(expected);
  EXPECT_EQ(left.size(), right.size());
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < right.size(); ++i) {
    difference += (left[i] - right[i]) * (left[i] - right[i]);
    norm += right[i] * right[i];
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace polymoe::test
