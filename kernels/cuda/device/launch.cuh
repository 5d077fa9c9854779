// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "runtime/stream.h"

namespace polymoe::cuda {

constexpr int warp_size = 32;
constexpr unsigned whole_warp = 0xffffffffu;

inline cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

/// Blocks that cover `items`, at most what a grid holds; kernels stride over the rest.
inline unsigned blocks_for(std::int64_t items, std::int64_t items_per_block) {
  constexpr std::int64_t most = 1 << 20;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>((items + items_per_block - 1) / items_per_block, 1, most));
}

/// The warp's sum in every lane, by one fixed tree.
template <class T>
__device__ T warp_sum(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(whole_warp, value, offset);
  }
  return value;
}

template <class T>
__device__ T warp_max(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(whole_warp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/// The block's sum in every thread, by one fixed tree. `scratch` holds a T per warp.
template <class T>
__device__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  if (threadIdx.x % warp_size == 0) scratch[warp] = value;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

/// Whole numbers in the order of floats; 1 for NaN, below every number; never 0.
__device__ inline unsigned ordered_bits(float value) {
  if (value != value) return 1u;
  const unsigned bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace polymoe::cuda
