// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/cuda/device/vectors.cuh"
#include "runtime/cuda/check.h"
#include "runtime/error.h"

/// What the tiled attention kernels are made of. A block of 16 x 16 threads holds a tile's scores;
/// thread (x, y) has the rows y, y + 16, ... and the columns x, x + 16, .... Tiles lie in shared
/// memory as f32, heads padded with zeros to `dim` elements.
namespace polymoe::cuda {

constexpr int tile_side = 16;
constexpr int tile_threads = tile_side * tile_side;

__device__ inline int tile_x() { return static_cast<int>(threadIdx.x) % tile_side; }
__device__ inline int tile_y() { return static_cast<int>(threadIdx.x) / tile_side; }

/// Distance of the rows of a tile: a vector more than `width`, so that the vectors of neighbouring
/// rows lie in different banks.
constexpr int tile_stride(int width) { return width + 4; }

/// Elements of shared memory of a tile.
constexpr int tile_elements(int rows, int width) { return rows * tile_stride(width); }

/// Sizes of one call, with what follows from them.
struct AttentionSizes {
  explicit AttentionSizes(const AttentionShape& s)
      : query_length(s.query_length),
        key_length(s.key_length),
        heads(static_cast<int>(s.heads)),
        kv_heads(static_cast<int>(s.kv_heads)),
        group(static_cast<int>(s.heads / s.kv_heads)),
        head_dim(static_cast<int>(s.head_dim)),
        query_stride(s.heads * s.head_dim),
        key_stride(s.kv_heads * s.head_dim),
        scale(1.0f / sqrtf(static_cast<float>(s.head_dim))),
        document_starts(static_cast<const std::int32_t*>(s.document_starts.raw())) {}

  /// Elements before row i of a head.
  __device__ std::int64_t query(std::int64_t sequence, int head, std::int64_t i) const {
    return (sequence * query_length + i) * query_stride + head * head_dim;
  }
  __device__ std::int64_t key(std::int64_t sequence, int kv_head, std::int64_t j) const {
    return (sequence * key_length + j) * key_stride + kv_head * head_dim;
  }
  __device__ std::int64_t row(std::int64_t sequence, int head, std::int64_t i) const {
    return (sequence * heads + head) * query_length + i;
  }
  /// The first key that query i sees; beyond all keys where it belongs to no document, or to one
  /// that other kernels compute. Ascends with i but for the latter.
  __device__ std::int64_t first_key(std::int64_t sequence, std::int64_t i) const {
    if (document_starts == nullptr || i >= query_length) return 0;
    return document_starts[sequence * query_length + i];
  }
  /// Whether other kernels compute the rows of query i.
  __device__ bool is_of_others(std::int64_t sequence, std::int64_t i) const {
    return first_key(sequence, i) == of_other_kernels;
  }
  /// Key j, at or behind its first one, counts for query i; neither may lie beyond its length.
  __device__ bool sees(std::int64_t i, std::int64_t j) const {
    return i < query_length && j <= key_length - query_length + i;
  }

  std::int64_t query_length, key_length;
  int heads, kv_heads, group, head_dim;
  std::int64_t query_stride, key_stride;
  float scale;
  const std::int32_t* document_starts;  // or null
};

/// The queries that a block works on: tile by tile of all heads of all sequences, the last tiles
/// first, for late queries see the most keys.
template <int tile_rows>
struct QueryTile {
  __device__ QueryTile(const AttentionSizes& sizes, int tiles, std::int64_t all_heads)
      : sequence(blockIdx.x % all_heads / sizes.heads),
        head(static_cast<int>(blockIdx.x % all_heads % sizes.heads)),
        first((tiles - 1 - blockIdx.x / all_heads) * tile_rows),
        rows(min(sizes.query_length - first, std::int64_t{tile_rows})),
        at(sizes.query(sequence, head, first)) {}

  std::int64_t sequence;
  int head;
  std::int64_t first, rows;
  std::int64_t at;  // elements before them
};

/// The keys that a block works on, the first tiles first, for early keys are seen by the most
/// queries.
template <int tile_rows>
struct KeyTile {
  __device__ KeyTile(const AttentionSizes& sizes, std::int64_t all_heads)
      : sequence(blockIdx.x % all_heads / sizes.kv_heads),
        head(static_cast<int>(blockIdx.x % all_heads % sizes.kv_heads)),
        begin(blockIdx.x / all_heads * tile_rows),
        rows_left(sizes.key_length - begin),
        at(sizes.key(sequence, head, begin)) {}

  std::int64_t sequence;
  int head;
  std::int64_t begin, rows_left;
  std::int64_t at;  // elements before them
};

/// Fills a tile of `rows` rows with the next `valid` rows of a head, and zeros after them. Called
/// by the whole block; a barrier must follow.
template <int rows, int dim, class T>
__device__ void load_tile(float* tile, const T* from, std::int64_t stride, std::int64_t valid,
                          int head_dim) {
  for (int e = static_cast<int>(threadIdx.x); e < rows * dim; e += tile_threads) {
    const int row = e / dim, column = e % dim;
    tile[row * tile_stride(dim) + column] =
        row < valid && column < head_dim ? to_float(from[row * stride + column]) : 0.0f;
  }
}

/// scores = a b^T of tiles [side * 16, dim].
template <int side, int dim>
__device__ void multiply_tiles(const float* a, const float* b, float (&scores)[side][side]) {
#pragma unroll
  for (int r = 0; r < side; ++r) {
#pragma unroll
    for (int c = 0; c < side; ++c) scores[r][c] = 0.0f;
  }
#pragma unroll 4
  for (int k = 0; k < dim; k += 4) {
    float4 of_a[side], of_b[side];
#pragma unroll
    for (int r = 0; r < side; ++r) {
      of_a[r] =
          *reinterpret_cast<const float4*>(a + (tile_y() + tile_side * r) * tile_stride(dim) + k);
      of_b[r] =
          *reinterpret_cast<const float4*>(b + (tile_x() + tile_side * r) * tile_stride(dim) + k);
    }
#pragma unroll
    for (int r = 0; r < side; ++r) {
#pragma unroll
      for (int c = 0; c < side; ++c) {
        scores[r][c] = fmaf(of_a[r].x, of_b[c].x, scores[r][c]);
        scores[r][c] = fmaf(of_a[r].y, of_b[c].y, scores[r][c]);
        scores[r][c] = fmaf(of_a[r].z, of_b[c].z, scores[r][c]);
        scores[r][c] = fmaf(of_a[r].w, of_b[c].w, scores[r][c]);
      }
    }
  }
}

/// The thread's part of a matrix [side * 16, dim]: rows y + 16 r, columns 4 x + 64 g + {0, ..., 3}.
template <int side, int dim>
struct TileSums {
  static constexpr int vectors = dim / (4 * tile_side);
  static_assert(vectors * 4 * tile_side == dim);

  __device__ TileSums() {
#pragma unroll
    for (int r = 0; r < side; ++r) {
#pragma unroll
      for (int g = 0; g < vectors; ++g) values[r][g] = {0.0f, 0.0f, 0.0f, 0.0f};
    }
  }

  __device__ void scale_row(int r, float factor) {
#pragma unroll
    for (int g = 0; g < vectors; ++g) {
      values[r][g].x *= factor;
      values[r][g].y *= factor;
      values[r][g].z *= factor;
      values[r][g].w *= factor;
    }
  }

  /// Adds weights [side * 16, side * 16] times the tile `b` [side * 16, dim].
  __device__ void add_product(const float* weights, const float* b) {
    constexpr int inner = side * tile_side;
#pragma unroll 2
    for (int k = 0; k < inner; k += 4) {
      float4 weight[side];
#pragma unroll
      for (int r = 0; r < side; ++r) {
        weight[r] = *reinterpret_cast<const float4*>(
            weights + (tile_y() + tile_side * r) * tile_stride(inner) + k);
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int g = 0; g < vectors; ++g) {
          const float4 value = *reinterpret_cast<const float4*>(b + (k + step) * tile_stride(dim) +
                                                                4 * tile_x() + 4 * tile_side * g);
#pragma unroll
          for (int r = 0; r < side; ++r) {
            const float w = step == 0   ? weight[r].x
                            : step == 1 ? weight[r].y
                            : step == 2 ? weight[r].z
                                        : weight[r].w;
            values[r][g].x = fmaf(w, value.x, values[r][g].x);
            values[r][g].y = fmaf(w, value.y, values[r][g].y);
            values[r][g].z = fmaf(w, value.z, values[r][g].z);
            values[r][g].w = fmaf(w, value.w, values[r][g].w);
          }
        }
      }
    }
  }

  /// Rounds the first `valid` rows and head_dim columns to T and writes them.
  template <class T>
  __device__ void store(T* to, std::int64_t stride, std::int64_t valid, int head_dim) const {
#pragma unroll
    for (int r = 0; r < side; ++r) {
      const int row = tile_y() + tile_side * r;
      if (row >= valid) continue;
#pragma unroll
      for (int g = 0; g < vectors; ++g) {
        const float elements[4] = {values[r][g].x, values[r][g].y, values[r][g].z, values[r][g].w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = 4 * tile_x() + 4 * tile_side * g + e;
          if (column < head_dim) to[row * stride + column] = from_float<T>(elements[e]);
        }
      }
    }
  }

  float4 values[side][vectors];
};

/// Writes the thread's part of a tile of weights [side * 16, side * 16].
template <int side>
__device__ void store_weights(float* tile, const float (&weights)[side][side]) {
#pragma unroll
  for (int r = 0; r < side; ++r) {
#pragma unroll
    for (int c = 0; c < side; ++c) {
      tile[(tile_y() + tile_side * r) * tile_stride(side * tile_side) + tile_x() + tile_side * c] =
          weights[r][c];
    }
  }
}

/// Sum and largest value over the threads of one row, the same bits in all of them.
__device__ inline float tile_row_sum(float value) {
#pragma unroll
  for (int offset = tile_side / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(~0u, value, offset);
  }
  return value;
}
__device__ inline float tile_row_max(float value) {
#pragma unroll
  for (int offset = tile_side / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
  }
  return value;
}

/// Calls operation(std::integral_constant<int, dim>) with the padded width of a head.
template <class Operation>
void with_padded_dim(std::int64_t head_dim, Operation&& operation) {
  if (head_dim <= 64) {
    operation(std::integral_constant<int, 64>{});
  } else if (head_dim <= 128) {
    operation(std::integral_constant<int, 128>{});
  } else {
    operation(std::integral_constant<int, 256>{});
  }
  static_assert(most_head_dim == 256);
}

/// Blocks of a grid of `tiles` tiles for each of `heads`. Throws InvalidArgument when too many.
inline unsigned tile_blocks(const char* operation, std::int64_t tiles, std::int64_t heads) {
  constexpr std::int64_t most = 2147483647;
  if (heads > 0 && tiles > most / heads) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(heads) + " heads of " +
                          std::to_string(tiles) + " tiles, expected at most 2147483647 tiles");
  }
  return static_cast<unsigned>(tiles * heads);
}

/// Allows a kernel the shared memory that it asks for, beyond what every kernel may have.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

}  // namespace polymoe::cuda
