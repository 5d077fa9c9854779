// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_blocks.cuh"

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 256;

// One thread block per group and coefficient.
__global__ void __launch_bounds__(threads)
    add_partial_sums_kernel(const __grid_constant__ RowBlocks blocks, const double* partial_sums,
                            int n, float* d_coefficients) {
  __shared__ BlockSum<1, double>::Storage storage;
  const int group = blockIdx.x / n, coefficient = blockIdx.x % n;
  double sum[1] = {0.0};
  for (int b = blocks.first_block[group] + threadIdx.x; b < blocks.first_block[group + 1];
       b += threads) {
    sum[0] += partial_sums[std::int64_t{b} * n + coefficient];
  }
  BlockSum<1, double>{storage}(sum);
  if (threadIdx.x == 0) d_coefficients[blockIdx.x] += static_cast<float>(sum[0]);
}

}  // namespace

void add_partial_sums(const RowBlocks& blocks, const double* partial_sums, int n,
                      float* d_coefficients, Stream& stream) {
  add_partial_sums_kernel<<<static_cast<unsigned>(blocks.groups * n), threads, 0, native(stream)>>>(
      blocks, partial_sums, n, d_coefficients);
  check_launch("add_partial_sums");
}

}  // namespace polymoe::cuda
