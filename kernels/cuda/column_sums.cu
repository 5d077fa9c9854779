// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/column_sums.h"

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

// Many threads to a column: few columns have to keep many loads under way.
constexpr int columns_per_block = 32, column_segments = 32;

template <class Sum>
__global__ void __launch_bounds__(columns_per_block* column_segments)
    add_columns(const float* partials, int blocks, int width, Sum* sums) {
  __shared__ float segments[column_segments][columns_per_block];
  const int column = blockIdx.x * columns_per_block + threadIdx.x;
  float sum = 0.0F;
  if (column < width) {
#pragma unroll 8
    for (int b = threadIdx.y; b < blocks; b += column_segments) {
      sum += partials[std::int64_t{b} * width + column];
    }
  }
  segments[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int s = 1; s < column_segments; ++s) sum += segments[s][threadIdx.x];
  sums[column] = from_float<Sum>(to_float(sums[column]) + sum);
}

}  // namespace

void add_column_sums(const float* partials, int blocks, int width, const Tensor& sums,
                     Stream& stream) {
  const auto grid = static_cast<unsigned>(divide_up(width, columns_per_block));
  with_real(sums.dtype(), [&]<class Sum>(Sum) {
    add_columns<Sum><<<grid, dim3(columns_per_block, column_segments), 0, native(stream)>>>(
        partials, blocks, width, static_cast<Sum*>(sums.raw()));
  });
  check_launch("add_column_sums");
}

}  // namespace polymoe::cuda
