// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace polymoe {

/// A mean of independent values with its uncertainty. `half_width` is that of Student's 95 %
/// interval; not a number for fewer than two values, which say nothing about their spread.
struct Estimate {
  std::size_t count = 0;
  double mean = 0.0;
  double deviation = 0.0;  // of the values: the sample's standard deviation
  double half_width = 0.0;
  double low() const { return mean - half_width; }
  double high() const { return mean + half_width; }
};

/// Not a number throughout where there is no value.
Estimate estimate(const std::vector<double>& values);

/// The quantile of Student's distribution; `freedom` >= 1, `probability` in (0, 1).
double student_quantile(double probability, double freedom);

}  // namespace polymoe
