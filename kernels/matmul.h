// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/dispatch.h"
#include "runtime/tensor.h"

namespace polymoe {

enum class Transpose : bool { no, yes };

/// c (+)= op(a) op(b), op(m) = m or its transpose.
///
/// op(a) [m, k], op(b) [k, n], c [m, n]; f32 or f64, all of one dtype; c aliases neither.
/// An extent of zero is allowed: with k = 0, overwrite gives zeros.
///
/// Asynchronous on `stream`; the CPU backend returns when done. Called inside an OpenMP parallel
/// region, the CPU backend uses the calling thread alone.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
            Write write, Tensor c, Stream& stream);

}  // namespace polymoe
