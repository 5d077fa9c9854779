// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace polymoe {

/// high = x to the nearest bf16, ties away from zero; low = the lower 16 bits of x: together they
/// are x to the bit, see split_float of runtime/float16.h, which says what becomes of a NaN.
///
/// x    f32
/// high bf16, low u16; of x's element count; low undefined = unwanted
///
/// Asynchronous on `stream`; the CPU backend returns when done.
/// Throws InvalidArgument on a mismatch of sizes, dtypes or devices.
void split_floats(const Tensor& x, Tensor high, Tensor low, Stream& stream);

}  // namespace polymoe
