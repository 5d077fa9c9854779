// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/activation/activation.h"

namespace polymoe::cuda {

/// What both directions read. Row statistics, coefficients and row weights are f32; x is f32 or
/// bf16, and so is all that is not said to be f32.
struct WeightedActivation {
  const Activation& activation;
  const Tensor& coefficients;                // [1 or groups, count] f32
  const std::vector<std::int64_t>& offsets;  // of the groups' rows
  const Tensor& row_weights;                 // [rows] f32; undefined = 1
};

/// y[r] = row_weights[r] * activation(x[r]).
void weighted_activation_forward(const WeightedActivation& in, const Tensor& x, const Tensor& y,
                                 Stream& stream);

/// Replaces x by its gradient, and d_y by y as forward gave it; overwrites d_row_weights[r] =
/// <d_y[r], activation(x[r])> where row_weights are given; adds to d_coefficients [as coefficients]
/// f32, in a fixed order. partial_sums: [RowTiles::max_count(rows, groups, unit), count] f64.
void weighted_activation_backward(const WeightedActivation& in, const Tensor& x, const Tensor& d_y,
                                  const Tensor& d_row_weights, const Tensor& d_coefficients,
                                  const Tensor& partial_sums, Stream& stream);

}  // namespace polymoe::cuda
