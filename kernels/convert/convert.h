// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y = x, rounded to the nearest value of y's dtype, ties to even. Beyond the largest finite value
/// lies infinity; subnormal values are kept; a NaN stays one, with what payload is the backend's.
///
/// x, y: equal element counts, memory that does not overlap. Dtypes: f32 with f32, f64 or bf16 on
/// the other side, or twice the same, which copies the bits; no f64 on CUDA. bf16 on the CPU too.
///
/// Asynchronous on `stream`; the CPU backend returns when done.
/// Throws InvalidArgument on a mismatch of sizes, dtypes or devices.
void convert(const Tensor& x, Tensor y, Stream& stream);

}  // namespace polymoe
