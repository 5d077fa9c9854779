// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

namespace polymoe::cuda {

__device__ inline float f32_of(float value) { return value; }
__device__ inline float f32_of(__nv_bfloat16 value) { return __bfloat162float(value); }
template <class T>
__device__ T rounded(float value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return value;
  } else {
    return __float2bfloat16(value);
  }
}

/// Neighbouring elements that one access moves.
template <class T, int count>
struct alignas(sizeof(T) * count) Pack {
  T values[count];
};

}  // namespace polymoe::cuda
