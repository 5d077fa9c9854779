// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/rms_norm/rms_norm.h"

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
