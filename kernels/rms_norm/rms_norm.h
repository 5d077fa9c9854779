// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y = x / rms(x) * weight, rms(x) = sqrt(mean(x^2) + epsilon) per row.
///
/// x, y    [rows, width]  y may alias x
/// weight  [width]
/// inv_rms [rows]         1 / rms(x), kept for the backward pass
///
/// f32 or f64 of one dtype on the CPU; on CUDA f32, or bf16 with f32 inv_rms and d_weight in f32
/// or bf16. Sums in f32 at least. Asynchronous on `stream`.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
/// Source: Zhang & Sennrich 2019, arXiv:1910.07467.
void rms_norm_forward(const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream& stream);

/// sum = x + delta; y = rms_norm(sum): a residual connection and the norm behind it in one pass.
///
/// x, delta, sum, y [rows, width]  sum may alias x or delta
void add_rms_norm_forward(const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream& stream);

/// Gradients of rms_norm_forward:
/// d_x (+)= inv_rms (d_y weight - xhat mean(d_y weight xhat)), xhat = x inv_rms;
/// d_weight += sum over rows of d_y xhat, in a fixed order.
///
/// d_y may alias d_x when overwriting. `scratch` holds the partial sums of row blocks.
void rms_norm_backward(const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Arena& scratch, Stream& stream);

}  // namespace polymoe
