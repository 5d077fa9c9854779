// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/poly_norm.h"

namespace polymoe::cuda {

/// PolyNorm on groups of rows, coefficients [1 or groups, order + 1] f32.
void poly_norm_rows_forward(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients,
                            const std::vector<std::int64_t>& group_offsets, const Tensor& y,
                            Stream& stream);
void poly_norm_rows_backward(const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                             const Tensor& coefficients,
                             const std::vector<std::int64_t>& group_offsets, const Tensor& d_x,
                             const Tensor& d_coefficients, const Tensor& partial_sums,
                             Stream& stream);

}  // namespace polymoe::cuda
