// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/device/vectors.cuh"

namespace polymoe::cuda {

constexpr int element_threads = 256;

/// Blocks for one thread per `per_thread` of `count` things, enough to fill a GPU and not more: the
/// kernel strides over the rest.
inline unsigned element_blocks(std::int64_t count, std::int64_t per_thread = 1) {
  constexpr std::int64_t most = std::int64_t{1} << 16;
  const std::int64_t per_block = element_threads * per_thread;
  return static_cast<unsigned>(std::min(most, (count + per_block - 1) / per_block));
}

__device__ inline std::int64_t first_element() {
  return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t element_stride() { return std::int64_t{gridDim.x} * blockDim.x; }

/// Four elements at a time, for operations over tensors of different dtypes. Aligned to the four.
template <class T>
__device__ void load_four(const T* from, float (&values)[4]) {
  if constexpr (sizeof(T) == 4) {
    Vector<float>::unpack(*reinterpret_cast<const uint4*>(from), values);
  } else {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    values[0] = __uint_as_float(bits.x << 16);
    values[1] = __uint_as_float(bits.x & 0xffff0000U);
    values[2] = __uint_as_float(bits.y << 16);
    values[3] = __uint_as_float(bits.y & 0xffff0000U);
  }
}
template <class T>
__device__ void store_four(T* to, const float (&values)[4]) {
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<uint4*>(to) = Vector<float>::pack(values);
  } else {
    const __nv_bfloat162 low = __floats2bfloat162_rn(values[0], values[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(values[2], values[3]);
    *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const std::uint32_t*>(&low),
                                     *reinterpret_cast<const std::uint32_t*>(&high)};
  }
}

}  // namespace polymoe::cuda
