// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/libraries/same_bits.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 256;

// found[0]: some differ; found[1]: some are not zero. Every writer writes the same.
__global__ void compare(const std::uint16_t* a, const std::uint16_t* b, std::int64_t count,
                        int* found) {
  bool differs = false, nonzero = false;
  const std::int64_t stride = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += stride) {
    differs |= a[i] != b[i];
    nonzero |= (a[i] & 0x7fff) != 0;
  }
  if (differs) found[0] = 1;
  if (nonzero) found[1] = 1;
}

}  // namespace

BitComparison compare_bits(const void* a, const void* b, std::size_t bytes, cudaStream_t stream) {
  const auto count = static_cast<std::int64_t>(bytes / sizeof(std::uint16_t));
  int* found = nullptr;
  check(cudaMallocAsync(&found, 2 * sizeof(int), stream), "cudaMallocAsync");
  std::array<int, 2> answer{};
  cudaError_t status = cudaMemsetAsync(found, 0, sizeof(answer), stream);
  if (status == cudaSuccess) {
    const auto blocks = std::clamp<std::int64_t>(count / threads, 1, 4096);
    compare<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(
        static_cast<const std::uint16_t*>(a), static_cast<const std::uint16_t*>(b), count, found);
    status = cudaGetLastError();
  }
  if (status == cudaSuccess) {
    status = cudaMemcpyAsync(answer.data(), found, sizeof(answer), cudaMemcpyDefault, stream);
  }
  cudaFreeAsync(found, stream);
  check(status, "compare_bits");
  check(cudaStreamSynchronize(stream), "compare_bits");
  return {answer[0] == 0, answer[1] == 0};
}

}  // namespace polymoe::cuda
