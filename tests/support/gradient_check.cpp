// SPDX-License-Identifier: Apache-2.0
#include "support/gradient_check.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <vector>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe::test {

::testing::AssertionResult gradient_matches(std::string_view name, const Tensor& variable,
                                            const Tensor& gradient,
                                            const std::function<double()>& loss,
                                            const GradientCheck& check) {
  if (variable.dtype() != DType::f64 || gradient.dtype() != DType::f64 ||
      variable.elements() != gradient.elements()) {
    return ::testing::AssertionFailure()
           << name << ": variable and gradient must be f64 of one "
           << "size, are " << to_string(variable.shape()) << " and " << to_string(gradient.shape());
  }
  const std::int64_t elements = variable.elements();
  std::vector<std::int64_t> indices(static_cast<std::size_t>(std::min(elements, check.samples)));
  const RandomStream random(7, name);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    indices[i] = elements <= check.samples
                     ? static_cast<std::int64_t>(i)
                     : static_cast<std::int64_t>(random.uniform(i) * static_cast<double>(elements));
  }
  double largest = 0.0;
  for (const std::int64_t i : indices) {
    largest = std::max(largest, std::abs(gradient.data<double>()[i]));
  }
  const double allowed = check.tolerance * (largest + check.floor);
  for (const std::int64_t i : indices) {
    double& value = variable.data<double>()[i];
    const double center = value;
    const auto at = [&](double offset) {
      value = center + offset;
      const double result = loss();
      value = center;
      return result;
    };
    const double h = check.step;
    const double quotient = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
    const double analytic = gradient.data<double>()[i];
    if (!(std::abs(quotient - analytic) <= allowed)) {
      return ::testing::AssertionFailure()
             << std::setprecision(17) << name << ": element " << i << " of " << elements
             << " has gradient " << analytic << ", differences give " << quotient << ", allowed "
             << allowed;
    }
  }
  return ::testing::AssertionSuccess();
}

double inner_product(const Tensor& a, const Tensor& b) {
  if (a.elements() != b.elements()) {
    throw InvalidArgument("inner product of " + to_string(a.shape()) + " and " +
                          to_string(b.shape()));
  }
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    sum += a.data<double>()[i] * b.data<double>()[i];
  }
  return sum;
}

}  // namespace polymoe::test
