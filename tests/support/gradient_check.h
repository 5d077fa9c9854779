// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string_view>

#include "runtime/tensor.h"

namespace polymoe::test {

struct GradientCheck {
  /// The five-point stencil's, whose error is O(step^4).
  double step = 1e-3;
  /// |difference quotient - gradient| <= tolerance * (largest |gradient| of those checked + floor).
  double tolerance = 1e-8;
  double floor = 1e-4;
  /// Elements looked at: all up to this number, else that many at random places.
  std::int64_t samples = 200;
};

/// Compares `gradient` (the analytic d loss / d variable, f64) with central differences
///   (8 (f(v+h) - f(v-h)) - (f(v+2h) - f(v-2h))) / 12h
/// of `loss`, which must recompute the loss from the current contents of `variable`. The contents
/// are moved and put back. `name` appears in the message of a failure.
///
/// For gradients that accumulate: start them from zero.
::testing::AssertionResult gradient_matches(std::string_view name, const Tensor& variable,
                                            const Tensor& gradient,
                                            const std::function<double()>& loss,
                                            const GradientCheck& check = {});

/// sum of a * b over all elements (f64): a loss whose gradient with respect to b is a.
double inner_product(const Tensor& a, const Tensor& b);

}  // namespace polymoe::test
