// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/statistics.h"

#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>
#include <vector>

namespace polymoe {

double student_quantile(double probability, double freedom) {
  return boost::math::quantile(boost::math::students_t(freedom), probability);
}

Estimate estimate(const std::vector<double>& values) {
  constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  Estimate result{
      .count = values.size(), .mean = unknown, .deviation = unknown, .half_width = unknown};
  if (values.empty()) return result;
  const auto count = static_cast<double>(values.size());
  double sum = 0.0, squares = 0.0;
  for (const double value : values) sum += value;
  result.mean = sum / count;
  if (values.size() < 2) return result;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.deviation = std::sqrt(squares / (count - 1.0));
  result.half_width = student_quantile(0.975, count - 1.0) * result.deviation / std::sqrt(count);
  return result;
}

}  // namespace polymoe
