// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/attention/attention_cuda_tiles.cuh"
#include "kernels/cuda/device/matrix_fragments.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/tensor.h"

/// What the attention kernels for tensor cores are made of: a block of four warps works on tiles of
/// 64 rows, sixteen of them a warp's. Tiles lie in shared memory as bf16, heads padded with zeros
/// to `dim` elements; scores and sums stay in registers as fragments of f32.
namespace polymoe::cuda {

constexpr int fragment_threads = 128;
constexpr int fragment_rows = 64;
constexpr int fragment_groups = fragment_rows / 8;  // of eight columns of a tile's scores

/// Bytes of a tile of rows.
template <int dim>
constexpr std::size_t fragment_tile_bytes = sizeof(__nv_bfloat16) * fragment_rows* dim;

/// What a warp holds of a matrix [16, 8 * groups]: lane l its rows g and g + 8 of the warp's
/// sixteen, and of every eight columns t and t + 1, with g = l / 4 and t = l % 4 * 2.
template <int groups>
struct WarpRows {
  __device__ static int row(int half) {
    return static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4 +
           8 * half;
  }
  __device__ static int column(int group, int element) {
    return 8 * group + static_cast<int>(threadIdx.x) % 4 * 2 + element;
  }

  __device__ void clear() {
#pragma unroll
    for (int group = 0; group < groups; ++group) {
#pragma unroll
      for (int e = 0; e < 4; ++e) values[group][e] = 0.0f;
    }
  }

  __device__ float& at(int group, int half, int element) {
    return values[group][2 * half + element];
  }

  /// The warp's sixteen rows of `a` times all rows of `b`, both tiles of `dim` columns.
  template <int dim>
  __device__ void multiply(const __nv_bfloat16* a, const __nv_bfloat16* b) {
    using Tile = FragmentTile<dim>;
    clear();
#pragma unroll
    for (int step = 0; step < dim / 16; ++step) {
      std::uint32_t of_a[4];
      Tile::load_a(of_a, a, static_cast<int>(threadIdx.x) / 32 * 16, step);
#pragma unroll
      for (int group = 0; group < groups; group += 2) {
        std::uint32_t of_b[4];
        Tile::load_b_of_rows(of_b, b, 8 * group, step);
        multiply_fragments(values[group], of_a, of_b[0], of_b[1]);
        multiply_fragments(values[group + 1], of_a, of_b[2], of_b[3]);
      }
    }
  }

  /// Adds weights [16, 64], rounded to bf16, times the tile `b` [64, 8 * groups].
  __device__ void add_product(const WarpRows<fragment_groups>& weights, const __nv_bfloat16* b) {
    using Tile = FragmentTile<8 * groups>;
#pragma unroll
    for (int step = 0; step < fragment_groups / 2; ++step) {
      const float(&low)[4] = weights.values[2 * step];
      const float(&high)[4] = weights.values[2 * step + 1];
      const std::uint32_t a[4] = {two_bf16(low[0], low[1]), two_bf16(low[2], low[3]),
                                  two_bf16(high[0], high[1]), two_bf16(high[2], high[3])};
#pragma unroll
      for (int group = 0; group < groups; group += 2) {
        std::uint32_t of_b[4];
        Tile::load_b_of_columns(of_b, b, 16 * step, 8 * group);
        multiply_fragments(values[group], a, of_b[0], of_b[1]);
        multiply_fragments(values[group + 1], a, of_b[2], of_b[3]);
      }
    }
  }

  /// Writes the first `valid` rows and head_dim columns times `factor` of each half's row.
  __device__ void store(__nv_bfloat16* to, std::int64_t stride, std::int64_t valid, int head_dim,
                        const float (&factor)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row(half) >= valid) continue;
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        if (8 * group >= head_dim) continue;
        *reinterpret_cast<std::uint32_t*>(to + row(half) * stride + column(group, 0)) = two_bf16(
            values[group][2 * half] * factor[half], values[group][2 * half + 1] * factor[half]);
      }
    }
  }

  float values[groups][4];
};

/// Begins to fill a tile with the next `valid` rows of a head, and zeros after them. By the whole
/// block.
template <int dim>
__device__ void copy_tile_later(__nv_bfloat16* tile, const __nv_bfloat16* from, std::int64_t stride,
                                std::int64_t valid, int head_dim) {
  constexpr int chunks = dim / 8;
#pragma unroll
  for (int e = static_cast<int>(threadIdx.x); e < fragment_rows * chunks; e += fragment_threads) {
    const int row = e / chunks, chunk = e % chunks;
    const bool there = row < valid && 8 * chunk < head_dim;
    copy_16_bytes_later(tile + FragmentTile<dim>::at(row, chunk),
                        there ? from + row * stride + 8 * chunk : from, there);
  }
}

/// The keys and values of a head up to `end`, two tiles of each in shared memory: one is worked on
/// while the next one comes.
template <int dim>
struct PassingKeys {
  static constexpr int tile = fragment_rows * dim;

  __device__ const __nv_bfloat16* keys(int place) const { return tiles + place * tile; }
  __device__ const __nv_bfloat16* values(int place) const { return tiles + (2 + place) * tile; }

  /// Begins to fill `place` with the tile of key `begin`. By the whole block.
  __device__ void copy_later(const AttentionSizes& sizes, std::int64_t begin, int place) const {
    const std::int64_t at = sizes.key(sequence, kv_head, begin);
    copy_tile_later<dim>(tiles + place * tile, k + at, sizes.key_stride, end - begin,
                         sizes.head_dim);
    copy_tile_later<dim>(tiles + (2 + place) * tile, v + at, sizes.key_stride, end - begin,
                         sizes.head_dim);
  }

  __nv_bfloat16* tiles;  // [keys and values, 2, fragment_rows, dim]
  const __nv_bfloat16 *k, *v;
  std::int64_t sequence;
  int kv_head;
  std::int64_t end;
};

/// What the documents of a tile's `rows` rows, from `first` on, ask for.
struct TileDocuments {
  /// By the whole block.
  __device__ TileDocuments(const AttentionSizes& sizes, std::int64_t sequence, std::int64_t first,
                           std::int64_t rows) {
    if (sizes.document_starts == nullptr) return;
    __shared__ int smallest[fragment_threads / warp_size];
    const int row = static_cast<int>(threadIdx.x) % fragment_rows;
    const int key =
        row < rows ? static_cast<int>(sizes.first_key(sequence, first + row)) : of_other_kernels;
    const int of_warp = __reduce_min_sync(~0u, key);
    if (threadIdx.x % warp_size == 0) smallest[threadIdx.x / warp_size] = of_warp;
    of_others = __syncthreads_and(key == of_other_kernels) != 0;
    first_key = min(min(smallest[0], smallest[1]), min(smallest[2], smallest[3]));
  }

  bool of_others = false;  // other kernels compute all of the rows
  int first_key = 0;       // that any of them sees; beyond all keys where none sees any
};
static_assert(fragment_threads == 4 * warp_size);

/// Sum and largest value over the four lanes that hold a row, the same bits in all of them.
__device__ inline float fragment_row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
__device__ inline float fragment_row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

/// Calls operation(std::integral_constant<int, dim>) with the padded width of a head of at most
/// 128.
template <class Operation>
void with_fragment_dim(std::int64_t head_dim, Operation&& operation) {
  if (head_dim <= 64) {
    operation(std::integral_constant<int, 64>{});
  } else {
    operation(std::integral_constant<int, 128>{});
  }
}

inline __nv_bfloat16* bf16_values(const Tensor& tensor) {
  return static_cast<__nv_bfloat16*>(tensor.raw());
}

/// Starts a kernel of so many blocks with `bytes` of shared memory each. `name`: for an error.
template <class Kernel, class... Arguments>
void launch_fragments(const char* name, Kernel* kernel, unsigned blocks, std::size_t bytes,
                      Stream& stream, const Arguments&... arguments) {
  allow_shared_memory(kernel, bytes);
  kernel<<<blocks, fragment_threads, bytes, native(stream)>>>(arguments...);
  check_launch(name);
}

/// To powers of two instead of e.
constexpr float log2_of_e = 1.44269504088896340736f;

}  // namespace polymoe::cuda
