// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/rotary/norm_rotary.h"

namespace polymoe::detail {

void norm_rotary_forward(CpuBackend, const RotaryPositions& positions, const Tensor& x,
                         const Tensor& weight, double epsilon, Tensor y, Tensor inv_rms,
                         Stream& stream);

/// partials [blocks, width]: block b sums rows [b rows / blocks, (b + 1) rows / blocks).
void norm_rotary_backward(CpuBackend, const RotaryPositions& positions, const Tensor& d_y,
                          const Tensor& x, const Tensor& inv_rms, const Tensor& weight, Tensor d_x,
                          Tensor d_weight, Tensor partials, Stream& stream);

void norm_rotary_forward(CudaBackend, const RotaryPositions& positions, const Tensor& x,
                         const Tensor& weight, double epsilon, Tensor y, Tensor inv_rms,
                         Stream& stream);

/// partials [blocks, width] f32: block b sums rows [b rows / blocks, (b + 1) rows / blocks).
void norm_rotary_backward(CudaBackend, const RotaryPositions& positions, const Tensor& d_y,
                          const Tensor& x, const Tensor& inv_rms, const Tensor& weight, Tensor d_x,
                          Tensor d_weight, Tensor partials, Stream& stream);

}  // namespace polymoe::detail
