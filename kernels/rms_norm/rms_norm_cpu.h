// SPDX-License-Identifier: Apache-2.0
#pragma once

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

}  // namespace polymoe::detail

namespace polymoe::cpu {

/// Pointers to the first row of each argument.
template <class T>
struct RmsNormForward {
  std::int64_t width;
  double epsilon;
  const T* x;
  const T* delta;  // null without a residual
  const T* weight;
  T* sum;  // null without a residual
  T* y;
  T* inv_rms;
};

template <class T>
struct RmsNormBackward {
  std::int64_t width;
  const T* d_y;
  const T* x;
  const T* inv_rms;
  const T* weight;
  Write write;
  T* d_x;
};

}  // namespace polymoe::cpu
