// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/rotary/rotary.h"

namespace polymoe {

/// Throws InvalidArgument unless x [rows, heads, d] has a dtype to compute in and an even d, and
/// the positions are in range.
void check_rotary(const char* operation, const char* name, const RotaryPositions& positions,
                  const Tensor& x);

}  // namespace polymoe

namespace polymoe::detail {

void rotary(CpuBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream& stream);

void rotary(CudaBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream& stream);

}  // namespace polymoe::detail
