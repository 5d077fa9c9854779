// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "runtime/buffer.h"

namespace polymoe::test {

/// Pseudo-random values that tests/reference/hashed_values.py forms bit for bit the same, so that
/// fixtures need not hold inputs and parameters.

/// Uniform in [center - spread, center + spread).
struct Uniform {
  double center = 0.0;
  double spread = 1.0;
};

/// values[i] = a function of (name, i) in f64, rounded to the tensor's dtype (f32 or f64).
void fill_hashed(std::string_view name, Uniform distribution, const Tensor& values);
OwnedTensor hashed_tensor(const Shape& shape, DType dtype, std::string_view name,
                          Uniform distribution = {});

/// [count] i32, uniform in [0, limit).
OwnedTensor hashed_integers(std::string_view name, std::int64_t count, std::int64_t limit);

/// The distribution of a model's parameter, by the end of its name: norms around 1, coefficients
/// around 0.3, matrices by their number of columns.
Uniform parameter_distribution(std::string_view name, const Shape& shape);

}  // namespace polymoe::test
