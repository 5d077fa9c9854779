// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "runtime/rounding.h"
#include "runtime/stream.h"

namespace polymoe::cuda {

inline cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

/// Blocks that cover `items`, at most what a grid holds; kernels stride over the rest.
inline unsigned blocks_for(std::int64_t items, std::int64_t items_per_block) {
  constexpr std::int64_t most = 1 << 20;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>(divide_up(items, items_per_block), 1, most));
}

constexpr int element_threads = 256;

/// Blocks for one thread per `per_thread` of `count` things, enough to fill a GPU and not more: the
/// kernel strides over the rest.
inline unsigned element_blocks(std::int64_t count, std::int64_t per_thread = 1) {
  constexpr std::int64_t most = std::int64_t{1} << 16;
  const std::int64_t per_block = element_threads * per_thread;
  return static_cast<unsigned>(std::min(most, divide_up(count, per_block)));
}

__device__ inline std::int64_t first_element() {
  return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t element_stride() { return std::int64_t{gridDim.x} * blockDim.x; }

}  // namespace polymoe::cuda
