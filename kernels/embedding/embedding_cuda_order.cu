// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding_cuda_order.h"

#include <bit>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

using Scratch = detail::EmbeddingScratch;

constexpr int digit_bits = 8;
constexpr int digits = static_cast<int>(Scratch::digit_values);
constexpr int tile_rows = static_cast<int>(Scratch::tile_rows);
constexpr int threads = digits;  // a thread per value of a digit
constexpr int warps = threads / warp_size;
constexpr int rounds = tile_rows / threads;
static_assert(digits == 1 << digit_bits && tile_rows % threads == 0);

// The first pass reads the tokens as they are: positions is null, and ids may be out of range.
struct Input {
  const std::int32_t* ids;
  const std::int32_t* positions;
  std::int64_t count;
  std::int32_t vocab;

  __device__ std::int32_t id(std::int64_t i) const {
    const std::int32_t id = ids[i];
    return id >= 0 && id < vocab ? id : vocab;
  }
  __device__ std::int32_t position(std::int64_t i) const {
    return positions == nullptr ? static_cast<std::int32_t>(i) : positions[i];
  }
};

__device__ int digit_of(std::int32_t id, int shift) { return (id >> shift) & (digits - 1); }

// counts [tiles, digits]: how often each value stands in a tile.
__global__ void __launch_bounds__(threads) count_digits(Input in, int shift, std::int32_t* counts) {
  __shared__ std::int32_t histogram[digits];
  histogram[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t begin = std::int64_t{blockIdx.x} * tile_rows;
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t i = begin + round * threads + threadIdx.x;
    if (i < in.count) atomicAdd(&histogram[digit_of(in.id(i), shift)], 1);
  }
  __syncthreads();
  counts[std::int64_t{blockIdx.x} * digits + threadIdx.x] = histogram[threadIdx.x];
}

// Where this block's first row with the digit threadIdx.x goes: after all rows with a lower digit
// and those of the tiles before with the same.
__device__ std::int32_t first_place(const std::int32_t* counts) {
  __shared__ std::int32_t warp_totals[warps];
  std::int32_t total = 0, before = 0;
  for (unsigned tile = 0; tile < gridDim.x; ++tile) {
    const std::int32_t rows = counts[std::int64_t{tile} * digits + threadIdx.x];
    if (tile < blockIdx.x) before += rows;
    total += rows;
  }
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  std::int32_t up_to_here = total;
  for (int offset = 1; offset < warp_size; offset *= 2) {
    const std::int32_t lower = __shfl_up_sync(whole_warp, up_to_here, offset);
    if (lane >= offset) up_to_here += lower;
  }
  if (lane == warp_size - 1) warp_totals[warp] = up_to_here;
  __syncthreads();
  for (int w = 0; w < warp; ++w) up_to_here += warp_totals[w];
  return up_to_here - total + before;
}

// One block per tile; a warp takes neighbouring rows, 32 at a time, so that what comes first in the
// tile comes first among its equals.
__global__ void __launch_bounds__(threads)
    place_rows(Input in, int shift, const std::int32_t* counts, std::int32_t* ids,
               std::int32_t* positions) {
  __shared__ std::int32_t taken[warps][digits + 1];  // the last counter is nobody's
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  for (int w = 0; w < warps; ++w) taken[w][threadIdx.x] = 0;
  if (lane == 0) taken[warp][digits] = 0;
  const std::int32_t first = first_place(counts);
  __syncthreads();

  const std::int64_t begin =
      std::int64_t{blockIdx.x} * tile_rows + warp * rounds * warp_size + lane;
  std::int32_t id[rounds], rank[rounds];  // rank among the warp's rows of the same digit
#pragma unroll
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t i = begin + round * warp_size;
    id[round] = i < in.count ? in.id(i) : 0;
    const int digit = i < in.count ? digit_of(id[round], shift) : digits;
    const unsigned same = __match_any_sync(whole_warp, digit);
    const int before = __popc(same & ((1U << lane) - 1));
    rank[round] = taken[warp][digit] + before;
    __syncwarp();
    if (before == 0) taken[warp][digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  // From counts to the place of each warp's first row, a thread per digit.
  std::int32_t place = first;
  for (int w = 0; w < warps; ++w) {
    const std::int32_t rows = taken[w][threadIdx.x];
    taken[w][threadIdx.x] = place;
    place += rows;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t i = begin + round * warp_size;
    if (i >= in.count) continue;
    const std::int32_t to = taken[warp][digit_of(id[round], shift)] + rank[round];
    ids[to] = id[round];
    positions[to] = in.position(i);
  }
}

}  // namespace

TokenOrder order_tokens(const Tensor& tokens, std::int64_t vocab,
                        const detail::EmbeddingScratch& scratch, Stream& stream) {
  Input in{tokens.data<std::int32_t>(), nullptr, tokens.elements(),
           static_cast<std::int32_t>(vocab)};
  const auto tiles = static_cast<unsigned>(scratch.digit_counts.dim(0));
  auto* counts = scratch.digit_counts.data<std::int32_t>();
  // Ids go up to `vocab` itself.
  const int bits = std::bit_width(static_cast<std::uint64_t>(vocab));
  int to = 0;
  for (int shift = 0; shift < bits; shift += digit_bits) {
    auto* ids = scratch.ids[to].data<std::int32_t>();
    auto* positions = scratch.positions[to].data<std::int32_t>();
    count_digits<<<tiles, threads, 0, native(stream)>>>(in, shift, counts);
    check_launch("count_digits");
    place_rows<<<tiles, threads, 0, native(stream)>>>(in, shift, counts, ids, positions);
    check_launch("place_rows");
    in.ids = ids;
    in.positions = positions;
    to = 1 - to;
  }
  return {in.ids, in.positions};
}

}  // namespace polymoe::cuda
