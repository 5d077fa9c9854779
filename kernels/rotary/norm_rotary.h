// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/rotary/rotary.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y = rotary(x / rms(x) * weight), rms(x) = sqrt(mean(x^2) + epsilon) per row over all heads: the
/// norm of queries or keys and their rotation (kernels/rotary/rotary.h) in one pass over memory.
///
/// x, y    [rows, heads, d]  d even; y may alias x
/// weight  [heads * d]
/// inv_rms [rows]            1 / rms(x), kept for the backward pass
///
/// f32 or f64 of one dtype on the CPU; on CUDA f32, or bf16 with f32 inv_rms and d_weight in f32
/// or bf16. Sums in f32 at least; what lies between norm and rotation is not rounded to bf16.
/// Asynchronous on `stream`.
/// Throws InvalidArgument on a shape, dtype or device mismatch, or positions out of range.
/// Sources: Zhang & Sennrich 2019, arXiv:1910.07467; Su et al. 2021, arXiv:2104.09864.
void norm_rotary_forward(const RotaryPositions& positions, const Tensor& x, const Tensor& weight,
                         double epsilon, Tensor y, Tensor inv_rms, Stream& stream);

/// Gradients of norm_rotary_forward, with g = rotary^T(d_y) and xhat = x inv_rms:
/// d_x = inv_rms (g weight - xhat mean(g weight xhat)), overwritten;
/// d_weight += sum over rows of g xhat, in a fixed order.
///
/// d_x may alias d_y. `scratch` holds the partial sums of row blocks.
void norm_rotary_backward(const RotaryPositions& positions, const Tensor& d_y, const Tensor& x,
                          const Tensor& inv_rms, const Tensor& weight, Tensor d_x, Tensor d_weight,
                          Arena& scratch, Stream& stream);

}  // namespace polymoe
