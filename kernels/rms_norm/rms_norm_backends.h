// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/rms_norm/rms_norm.h"

namespace polymoe::detail {

void rms_norm_forward(CpuBackend, const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream& stream);

void add_rms_norm_forward(CpuBackend, const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream& stream);

/// partials [blocks, width]: block b sums rows [b rows / blocks, (b + 1) rows / blocks).
void rms_norm_backward(CpuBackend, const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Tensor partials, Stream& stream);

void rms_norm_forward(CudaBackend, const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream& stream);

void add_rms_norm_forward(CudaBackend, const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream& stream);

/// partials [blocks, width] f32: block b sums rows [b rows / blocks, (b + 1) rows / blocks).
void rms_norm_backward(CudaBackend, const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Tensor partials, Stream& stream);

}  // namespace polymoe::detail
