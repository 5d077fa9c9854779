// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/activation/poly_norm.h"

namespace polymoe::detail {

/// Shape of the f64 scratch that holds the coefficients' gradients per tile of rows.
Shape poly_norm_partial_sums(const PolyNorm& norm, std::int64_t rows);

void poly_norm_forward(CpuBackend, const PolyNorm& norm, const Tensor& x,
                       const Tensor& coefficients, Tensor y, Stream& stream);

void poly_norm_backward(CpuBackend, const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, Tensor d_x, Tensor d_coefficients,
                        const Tensor& partial_sums, Stream& stream);

}  // namespace polymoe::detail
