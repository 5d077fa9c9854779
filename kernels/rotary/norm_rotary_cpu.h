// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/rotary/norm_rotary.h"

namespace polymoe::cpu {

/// At most as many rows are worked on at a time.
constexpr std::int64_t norm_rotary_rows = 64;

/// Pointers to the first row of each argument.
template <class T>
struct NormRotaryForward {
  RotaryPositions positions;
  std::int64_t heads, head_dim;
  double epsilon;
  const T* x;
  const T* weight;
  T* y;
  T* inv_rms;
};

template <class T>
struct NormRotaryBackward {
  RotaryPositions positions;
  std::int64_t heads, head_dim;
  const T* d_y;
  const T* x;
  const T* inv_rms;
  const T* weight;
  T* d_x;
};

}  // namespace polymoe::cpu
