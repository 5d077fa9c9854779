// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/embedding.h"

#include <algorithm>
#include <limits>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 256;

// Unit is uint4 where rows are made of vectors, else T. An id out of range makes a row of NaN.
template <class Unit>
__global__ void __launch_bounds__(threads)
    gather(const std::int32_t* tokens, const Unit* table, Unit nan, std::int64_t vocab, int units,
           Unit* y) {
  const std::int64_t row = blockIdx.x;
  const std::int32_t token = tokens[row];
  const bool known = token >= 0 && token < vocab;
  for (int i = threadIdx.x; i < units; i += threads) {
    y[row * units + i] = known ? table[std::int64_t{token} * units + i] : nan;
  }
}

// A block owns the ids [first, last). It looks for them in the tokens, `threads` at a time, and
// adds the rows found in ascending order; a thread owns columns, so that sums need no barriers.
template <class T>
__global__ void __launch_bounds__(threads)
    scatter(const std::int32_t* tokens, std::int64_t rows, std::int64_t vocab, int ids_per_block,
            const T* d_y, int width, float* d_table) {
  __shared__ std::int32_t found_rows[threads], found_tokens[threads];
  __shared__ int found_by_warp[threads / warp_size];
  const std::int64_t first = std::int64_t{blockIdx.x} * ids_per_block;
  const std::int64_t last = first + ids_per_block < vocab ? first + ids_per_block : vocab;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (std::int64_t begin = 0; begin < rows; begin += threads) {
    const std::int64_t row = begin + threadIdx.x;
    const std::int32_t token = row < rows ? tokens[row] : -1;
    const bool mine = token >= first && token < last;
    const unsigned votes = __ballot_sync(~0U, mine);
    if (lane == 0) found_by_warp[warp] = __popc(votes);
    if (__syncthreads_or(mine) == 0) continue;
    int place = __popc(votes & ((1U << lane) - 1)), found = 0;
    for (int w = 0; w < threads / warp_size; ++w) {
      if (w < warp) place += found_by_warp[w];
      found += found_by_warp[w];
    }
    if (mine) {
      found_rows[place] = static_cast<std::int32_t>(threadIdx.x);
      found_tokens[place] = token;
    }
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += threads) {
      for (int i = 0; i < found;) {
        const std::int32_t id = found_tokens[i];
        float* to = d_table + std::int64_t{id} * width + column;
        float sum = *to;
        for (; i < found && found_tokens[i] == id; ++i) {
          sum += to_float(d_y[(begin + found_rows[i]) * width + column]);
        }
        *to = sum;
      }
    }
    __syncthreads();
  }
}

// Blocks of the backward pass: enough to fill a GPU, few enough that reading the tokens in each of
// them costs little.
constexpr std::int64_t max_blocks = 2048;

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void embedding_forward(CudaBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream) {
  if (y.elements() == 0) return;
  const auto native = static_cast<cudaStream_t>(stream.native());
  const auto grid = static_cast<unsigned>(y.dim(0));
  cuda::with_real(table.dtype(), [&]<class T>(T) {
    const std::int64_t width = table.dim(1);
    if (cuda::in_vectors<T>(width, {table.raw(), y.raw()})) {
      constexpr unsigned ones = ~0U;
      cuda::gather<uint4><<<grid, cuda::threads, 0, native>>>(
          tokens.data<std::int32_t>(), static_cast<const uint4*>(table.raw()),
          uint4{ones, ones, ones, ones}, table.dim(0),
          static_cast<int>(width / cuda::Vector<T>::size), static_cast<uint4*>(y.raw()));
    } else {
      cuda::gather<T><<<grid, cuda::threads, 0, native>>>(
          tokens.data<std::int32_t>(), static_cast<const T*>(table.raw()),
          static_cast<T>(std::numeric_limits<float>::quiet_NaN()), table.dim(0),
          static_cast<int>(width), static_cast<T*>(y.raw()));
    }
  });
  cuda::check_launch("embedding_forward");
}

void embedding_backward(CudaBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        Arena&, Stream& stream) {
  if (d_y.elements() == 0) return;
  const std::int64_t vocab = d_table.dim(0);
  const std::int64_t ids_per_block = (vocab + cuda::max_blocks - 1) / cuda::max_blocks;
  const auto grid = static_cast<unsigned>((vocab + ids_per_block - 1) / ids_per_block);
  cuda::with_real(d_y.dtype(), [&]<class T>(T) {
    cuda::scatter<T><<<grid, cuda::threads, 0, static_cast<cudaStream_t>(stream.native())>>>(
        tokens.data<std::int32_t>(), d_y.dim(0), vocab, static_cast<int>(ids_per_block),
        static_cast<const T*>(d_y.raw()), static_cast<int>(d_y.dim(1)), d_table.data<float>());
  });
  cuda::check_launch("embedding_backward");
}

}  // namespace polymoe::detail
