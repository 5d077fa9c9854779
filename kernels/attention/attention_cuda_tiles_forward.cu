// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cuda_tiles.h"

#include <cmath>

#include "kernels/attention/attention_cuda_tiles.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int forward_side = 4;
constexpr int forward_rows = forward_side * tile_side;

template <class T>
struct ForwardTensors {
  const T *q, *k, *v;
  T* out;
  float* log_sum_exp;
};

template <int dim>
constexpr std::size_t forward_shared_bytes() {
  return sizeof(float) *
         (2 * tile_elements(forward_rows, dim) + tile_elements(forward_rows, forward_rows));
}

// A block per query tile of a head.
template <class T, int dim>
__global__ void __launch_bounds__(tile_threads)
    forward_tile(AttentionSizes sizes, ForwardTensors<T> t, int tiles, std::int64_t all_heads) {
  extern __shared__ float4 shared[];
  float* const queries = reinterpret_cast<float*>(shared);
  float* const keys = queries + tile_elements(forward_rows, dim);  // then the values
  float* const weights = keys + tile_elements(forward_rows, dim);
  const auto [sequence, head, first, rows, at] = QueryTile<forward_rows>(sizes, tiles, all_heads);
  load_tile<forward_rows, dim>(queries, t.q + at, sizes.query_stride, rows, sizes.head_dim);
  TileSums<forward_side, dim> out;
  float largest[forward_side], sum[forward_side];
  std::int64_t first_key[forward_side];
#pragma unroll
  for (int r = 0; r < forward_side; ++r) {
    largest[r] = -INFINITY;
    sum[r] = 0.0f;
    first_key[r] = sizes.first_key(sequence, first + tile_y() + tile_side * r);
  }
  // From the tile of the first key that the first of these queries sees to the keys that the last
  // one sees. Within a tile a row may see none.
  const std::int64_t end = sizes.key_length - sizes.query_length + first + rows;
  for (std::int64_t begin = sizes.first_key(sequence, first) / forward_rows * forward_rows;
       begin < end; begin += forward_rows) {
    const std::int64_t key = sizes.key(sequence, head / sizes.group, begin);
    const std::int64_t columns = end - begin;
    __syncthreads();
    load_tile<forward_rows, dim>(keys, t.k + key, sizes.key_stride, columns, sizes.head_dim);
    __syncthreads();
    float scores[forward_side][forward_side];
    multiply_tiles<forward_side, dim>(queries, keys, scores);
#pragma unroll
    for (int r = 0; r < forward_side; ++r) {
      const std::int64_t i = first + tile_y() + tile_side * r;
      const float before = largest[r];
      float row_largest = before;
#pragma unroll
      for (int c = 0; c < forward_side; ++c) {
        // Rows beyond the last query score 0 everywhere, and are not written.
        const std::int64_t j = begin + tile_x() + tile_side * c;
        const bool hidden = j > sizes.key_length - sizes.query_length + i || j < first_key[r];
        scores[r][c] = hidden ? -INFINITY : scores[r][c] * sizes.scale;
        row_largest = fmaxf(row_largest, scores[r][c]);
      }
      row_largest = tile_row_max(row_largest);
      largest[r] = row_largest;
      if (row_largest == -INFINITY) row_largest = 0.0f;  // nothing seen yet: exponentials of -inf
      const float shrunk = expf(before - row_largest);
      float row_sum = 0.0f;
#pragma unroll
      for (int c = 0; c < forward_side; ++c) {
        scores[r][c] = expf(scores[r][c] - row_largest);
        row_sum += scores[r][c];
      }
      sum[r] = sum[r] * shrunk + tile_row_sum(row_sum);
      out.scale_row(r, shrunk);
    }
    store_weights<forward_side>(weights, scores);
    __syncthreads();
    load_tile<forward_rows, dim>(keys, t.v + key, sizes.key_stride, columns, sizes.head_dim);
    __syncthreads();
    out.add_product(weights, keys);
  }
#pragma unroll
  for (int r = 0; r < forward_side; ++r) {
    const bool nothing_seen = sum[r] == 0.0f;
    out.scale_row(r, nothing_seen ? 0.0f : 1.0f / sum[r]);
    const int row = tile_y() + tile_side * r;
    if (tile_x() == 0 && row < rows) {
      t.log_sum_exp[sizes.row(sequence, head, first + row)] =
          nothing_seen ? 0.0f : largest[r] + logf(sum[r]);
    }
  }
  out.store(t.out + at, sizes.query_stride, rows, sizes.head_dim);
}

constexpr int decode_warps = 16;
constexpr int decode_keys = 4;  // that a warp works on at once

// One query per sequence: a block per head, whose warps share out the keys. Element
// lane + 32 c of the head is the lane's c-th.
template <class T, int dim>
__global__ void __launch_bounds__(decode_warps* warp_size)
    decode(AttentionSizes sizes, ForwardTensors<T> t) {
  constexpr int held = dim / warp_size;
  __shared__ float largest_of[decode_warps], sum_of[decode_warps], out_of[decode_warps][dim];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const std::int64_t sequence = blockIdx.x / static_cast<unsigned>(sizes.heads);
  const int head = static_cast<int>(blockIdx.x % static_cast<unsigned>(sizes.heads));
  const std::int64_t at = sizes.query(sequence, head, 0);
  const std::int64_t key = sizes.key(sequence, head / sizes.group, 0);
  const auto element = [&](const T* row, int c) {
    const int column = lane + warp_size * c;
    return column < sizes.head_dim ? to_float(row[column]) : 0.0f;
  };
  float q[held], out[held];
#pragma unroll
  for (int c = 0; c < held; ++c) {
    q[c] = element(t.q + at, c) * sizes.scale;
    out[c] = 0.0f;
  }
  float largest = -INFINITY, sum = 0.0f;
  for (std::int64_t j = warp * decode_keys; j < sizes.key_length; j += decode_warps * decode_keys) {
    const T* const k = t.k + key + j * sizes.key_stride;
    const T* const v = t.v + key + j * sizes.key_stride;
    const int valid = static_cast<int>(min(sizes.key_length - j, std::int64_t{decode_keys}));
    float scores[decode_keys], next_largest = largest;
#pragma unroll
    for (int u = 0; u < decode_keys; ++u) {
      float dot = 0.0f;
      if (u < valid) {
#pragma unroll
        for (int c = 0; c < held; ++c) dot = fmaf(q[c], element(k + u * sizes.key_stride, c), dot);
      }
      scores[u] = u < valid ? sum_over_warp(dot) : -INFINITY;
      next_largest = fmaxf(next_largest, scores[u]);
    }
    const float shrunk = expf(largest - next_largest);
    largest = next_largest;
    sum *= shrunk;
#pragma unroll
    for (int c = 0; c < held; ++c) out[c] *= shrunk;
#pragma unroll
    for (int u = 0; u < decode_keys; ++u) {
      if (u >= valid) continue;
      const float weight = expf(scores[u] - largest);
      sum += weight;
#pragma unroll
      for (int c = 0; c < held; ++c) {
        out[c] = fmaf(weight, element(v + u * sizes.key_stride, c), out[c]);
      }
    }
  }
  if (lane == 0) {
    largest_of[warp] = largest;
    sum_of[warp] = sum;
  }
#pragma unroll
  for (int c = 0; c < held; ++c) out_of[warp][lane + warp_size * c] = out[c];
  __syncthreads();
  // Warp 0 saw key 0. One without keys has -infinity, 0 and zeros.
  float all_largest = largest_of[0];
  for (int w = 1; w < decode_warps; ++w) all_largest = fmaxf(all_largest, largest_of[w]);
  float all_sum = 0.0f;
  for (int w = 0; w < decode_warps; ++w) all_sum += sum_of[w] * expf(largest_of[w] - all_largest);
  const int column = static_cast<int>(threadIdx.x);
  if (column < sizes.head_dim) {
    float value = 0.0f;
    for (int w = 0; w < decode_warps; ++w) {
      value += out_of[w][column] * expf(largest_of[w] - all_largest);
    }
    t.out[at + column] = from_float<T>(value / all_sum);
  }
  if (column == 0) t.log_sum_exp[sizes.row(sequence, head, 0)] = all_largest + logf(all_sum);
}

}  // namespace

void attention_tiles_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& out, const Tensor& log_sum_exp,
                             Stream& stream) {
  const std::int64_t heads = shape.batch * shape.heads;
  const std::int64_t tiles = divide_up(shape.query_length, forward_rows);
  const unsigned blocks = tile_blocks("attention_forward", tiles, heads);
  if (blocks == 0) return;
  const AttentionSizes sizes(shape);
  with_real(q.dtype(), [&]<class T>(T) {
    const ForwardTensors<T> tensors{static_cast<const T*>(q.raw()), static_cast<const T*>(k.raw()),
                                    static_cast<const T*>(v.raw()), static_cast<T*>(out.raw()),
                                    log_sum_exp.data<float>()};
    with_padded_dim(shape.head_dim, [&]<int dim>(std::integral_constant<int, dim>) {
      if (shape.query_length == 1 && !shape.document_starts.defined()) {
        decode<T, dim><<<blocks, decode_warps * warp_size, 0, native(stream)>>>(sizes, tensors);
      } else {
        constexpr std::size_t bytes = forward_shared_bytes<dim>();
        allow_shared_memory(&forward_tile<T, dim>, bytes);
        forward_tile<T, dim><<<blocks, tile_threads, bytes, native(stream)>>>(
            sizes, tensors, static_cast<int>(tiles), heads);
      }
      check_launch("attention_forward");
    });
  });
}

}  // namespace polymoe::cuda
