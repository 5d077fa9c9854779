// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// How the powers are taken.
struct PolyNorm {
  int order = 3;           // r, in [2, 4]
  double epsilon = 1e-6;   // inside the root
  bool rectified = false;  // take powers of relu(x) instead of x (PolyReLUNorm)
};

/// y = a_0 + sum_{p=1..r} a_p n(x^p),  n(u) = u rsqrt(mean(u^2) + epsilon) over the row.
///
/// x, y         [rows, width]  y may alias x
/// coefficients [order + 1]    a_0 first
///
/// One read and one write of memory per element. f32 or f64 on the CPU, f32 or bf16 on CUDA, where
/// coefficients are f32; statistics in f32 at least.
/// Asynchronous on `stream`. Throws InvalidArgument on a shape, dtype or device mismatch.
/// Source: Zhuo et al., ICLR 2025, arXiv:2411.03884, with the RMS of its reference code.
void poly_norm_forward(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients, Tensor y,
                       Stream& stream);

/// With g = d_y, r_p = rsqrt(mean(x^2p) + epsilon), S_p = sum_j g_j x_j^p:
///   d_x_i = sum_p a_p (p x_i^(p-1) r_p g_i - (p / width) x_i^(2p-1) r_p^3 S_p)
///   d_a_p += sum over rows of r_p S_p;  d_a_0 += sum of g.
/// Overwrites d_x (may alias x or d_y); the coefficients' sums have a fixed order.
void poly_norm_backward(const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, Tensor d_x, Tensor d_coefficients,
                        Arena& scratch, Stream& stream);

}  // namespace polymoe
