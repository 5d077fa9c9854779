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

// What four tiles of wide heads leave room for in shared memory.
template <int dim>
constexpr int backward_side = dim <= 64 ? 4 : 2;
template <int dim>
constexpr int backward_rows = backward_side<dim>* tile_side;

template <class T>
struct BackwardTensors {
  const T *d_out, *q, *k, *v;
  const float *log_sum_exp, *output_dots;
  T *d_q, *d_k, *d_v;
};

template <int dim>
constexpr std::size_t backward_shared_bytes(int weight_tiles) {
  constexpr int rows = backward_rows<dim>;
  return sizeof(float) * static_cast<std::size_t>(4 * tile_elements(rows, dim) +
                                                  weight_tiles * tile_elements(rows, rows));
}

constexpr int dot_warps = 8;

// A warp per query of a head.
template <class T>
__global__ void __launch_bounds__(dot_warps* warp_size)
    dot_outputs(AttentionSizes sizes, const T* d_out, const T* out, float* dots,
                std::int64_t count) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t stride = std::int64_t{gridDim.x} * dot_warps;
  for (std::int64_t n = std::int64_t{blockIdx.x} * dot_warps + threadIdx.x / warp_size; n < count;
       n += stride) {
    const std::int64_t at = n * sizes.head_dim;  // row n / heads, head n % heads
    const std::int64_t sequence = n / sizes.heads / sizes.query_length;
    const std::int64_t i = n / sizes.heads % sizes.query_length;
    float dot = 0.0f;
    if (!sizes.is_of_others(sequence, i)) {
      for (int c = lane; c < sizes.head_dim; c += warp_size) {
        dot = fmaf(to_float(d_out[at + c]), to_float(out[at + c]), dot);
      }
      dot = sum_over_warp(dot);
    }
    if (lane == 0) dots[sizes.row(sequence, static_cast<int>(n % sizes.heads), i)] = dot;
  }
}

// A block per key tile of a key head: d_v = p^T d_out and d_k = d_s^T q over the queries of the
// heads on it, p = exp(s - log_sum_exp), d_s = p (d_p - output_dots) scale, d_p = d_out v^T.
template <class T, int dim>
__global__ void __launch_bounds__(tile_threads)
    key_gradients(AttentionSizes sizes, BackwardTensors<T> t, std::int64_t all_heads) {
  constexpr int side = backward_side<dim>, tile = backward_rows<dim>;
  extern __shared__ float4 shared[];
  float* const keys = reinterpret_cast<float*>(shared);
  float* const values = keys + tile_elements(tile, dim);
  float* const queries = values + tile_elements(tile, dim);
  float* const d_outs = queries + tile_elements(tile, dim);
  float* const p_tile = d_outs + tile_elements(tile, dim);
  float* const d_s_tile = p_tile + tile_elements(tile, tile);
  const auto [sequence, kv_head, begin, columns, key] = KeyTile<tile>(sizes, all_heads);
  load_tile<tile, dim>(keys, t.k + key, sizes.key_stride, columns, sizes.head_dim);
  load_tile<tile, dim>(values, t.v + key, sizes.key_stride, columns, sizes.head_dim);
  TileSums<side, dim> d_k, d_v;
  // The tile of the first query that sees the first key.
  const std::int64_t start =
      max(begin - (sizes.key_length - sizes.query_length), std::int64_t{0}) / tile * tile;
  for (int head = kv_head * sizes.group; head < (kv_head + 1) * sizes.group; ++head) {
    for (std::int64_t first = start; first < sizes.query_length; first += tile) {
      // The queries of later documents see none of these keys.
      if (sizes.first_key(sequence, first) >= begin + tile) break;
      const std::int64_t at = sizes.query(sequence, head, first);
      const std::int64_t rows = sizes.query_length - first;
      __syncthreads();
      load_tile<tile, dim>(queries, t.q + at, sizes.query_stride, rows, sizes.head_dim);
      load_tile<tile, dim>(d_outs, t.d_out + at, sizes.query_stride, rows, sizes.head_dim);
      __syncthreads();
      float p[side][side], d_s[side][side];  // a row per key
      multiply_tiles<side, dim>(keys, queries, p);
      multiply_tiles<side, dim>(values, d_outs, d_s);
#pragma unroll
      for (int c = 0; c < side; ++c) {
        const std::int64_t i = first + tile_x() + tile_side * c;
        const std::int64_t row = sizes.row(sequence, head, i);
        const float log_sum_exp = i < sizes.query_length ? t.log_sum_exp[row] : 0.0f;
        const float output_dot = i < sizes.query_length ? t.output_dots[row] : 0.0f;
        const std::int64_t first_key = sizes.first_key(sequence, i);
#pragma unroll
        for (int r = 0; r < side; ++r) {
          const std::int64_t j = begin + tile_y() + tile_side * r;
          const bool seen = j >= first_key && sizes.sees(i, j);
          p[r][c] = seen ? expf(p[r][c] * sizes.scale - log_sum_exp) : 0.0f;
          d_s[r][c] = seen ? p[r][c] * (d_s[r][c] - output_dot) * sizes.scale : 0.0f;
        }
      }
      store_weights<side>(p_tile, p);
      store_weights<side>(d_s_tile, d_s);
      __syncthreads();
      d_v.add_product(p_tile, d_outs);
      d_k.add_product(d_s_tile, queries);
    }
  }
  d_k.store(t.d_k + key, sizes.key_stride, columns, sizes.head_dim);
  d_v.store(t.d_v + key, sizes.key_stride, columns, sizes.head_dim);
}

// A block per query tile of a head: d_q = d_s k over the keys that its queries see.
template <class T, int dim>
__global__ void __launch_bounds__(tile_threads)
    query_gradients(AttentionSizes sizes, BackwardTensors<T> t, int tiles, std::int64_t all_heads) {
  constexpr int side = backward_side<dim>, tile = backward_rows<dim>;
  extern __shared__ float4 shared[];
  float* const queries = reinterpret_cast<float*>(shared);
  float* const d_outs = queries + tile_elements(tile, dim);
  float* const keys = d_outs + tile_elements(tile, dim);
  float* const values = keys + tile_elements(tile, dim);
  float* const d_s_tile = values + tile_elements(tile, dim);
  const auto [sequence, head, first, rows, at] = QueryTile<tile>(sizes, tiles, all_heads);
  load_tile<tile, dim>(queries, t.q + at, sizes.query_stride, rows, sizes.head_dim);
  load_tile<tile, dim>(d_outs, t.d_out + at, sizes.query_stride, rows, sizes.head_dim);
  float log_sum_exp[side], output_dot[side];
  std::int64_t first_key[side];
#pragma unroll
  for (int r = 0; r < side; ++r) {
    const int row = tile_y() + tile_side * r;
    const std::int64_t place = sizes.row(sequence, head, first + row);
    log_sum_exp[r] = row < rows ? t.log_sum_exp[place] : 0.0f;
    output_dot[r] = row < rows ? t.output_dots[place] : 0.0f;
    first_key[r] = sizes.first_key(sequence, first + row);
  }
  TileSums<side, dim> d_q;
  const std::int64_t end = sizes.key_length - sizes.query_length + first + rows;
  for (std::int64_t begin = sizes.first_key(sequence, first) / tile * tile; begin < end;
       begin += tile) {
    const std::int64_t key = sizes.key(sequence, head / sizes.group, begin);
    __syncthreads();
    load_tile<tile, dim>(keys, t.k + key, sizes.key_stride, end - begin, sizes.head_dim);
    load_tile<tile, dim>(values, t.v + key, sizes.key_stride, end - begin, sizes.head_dim);
    __syncthreads();
    float s[side][side], d_s[side][side];
    multiply_tiles<side, dim>(queries, keys, s);
    multiply_tiles<side, dim>(d_outs, values, d_s);
#pragma unroll
    for (int r = 0; r < side; ++r) {
#pragma unroll
      for (int c = 0; c < side; ++c) {
        const std::int64_t j = begin + tile_x() + tile_side * c;
        const bool seen = j >= first_key[r] && sizes.sees(first + tile_y() + tile_side * r, j);
        const float p = expf(s[r][c] * sizes.scale - log_sum_exp[r]);
        d_s[r][c] = seen ? p * (d_s[r][c] - output_dot[r]) * sizes.scale : 0.0f;
      }
    }
    store_weights<side>(d_s_tile, d_s);
    __syncthreads();
    d_q.add_product(d_s_tile, keys);
  }
  d_q.store(t.d_q + at, sizes.query_stride, rows, sizes.head_dim);
}

}  // namespace

void attention_output_dots(const AttentionShape& shape, const Tensor& d_out, const Tensor& out,
                           const Tensor& output_dots, Stream& stream) {
  const std::int64_t dots = shape.batch * shape.heads * shape.query_length;
  if (dots == 0) return;
  with_real(out.dtype(), [&]<class T>(T) {
    dot_outputs<T><<<blocks_for(dots, dot_warps), dot_warps * warp_size, 0, native(stream)>>>(
        AttentionSizes(shape), static_cast<const T*>(d_out.raw()), static_cast<const T*>(out.raw()),
        output_dots.data<float>(), dots);
    check_launch("attention_backward output_dots");
  });
}

void attention_tiles_backward(const AttentionShape& shape,
                              const detail::AttentionBackwardInputs& inputs,
                              const detail::AttentionGradients& gradients,
                              const Tensor& output_dots, Stream& stream) {
  attention_output_dots(shape, inputs.d_out, inputs.out, output_dots, stream);
  const AttentionSizes sizes(shape);
  const cudaStream_t native_stream = native(stream);
  const std::int64_t heads = shape.batch * shape.heads;
  const std::int64_t kv_heads = shape.batch * shape.kv_heads;
  with_real(inputs.q.dtype(), [&]<class T>(T) {
    const auto in = [](const Tensor& tensor) { return static_cast<const T*>(tensor.raw()); };
    const auto out = [](const Tensor& tensor) { return static_cast<T*>(tensor.raw()); };
    const BackwardTensors<T> tensors{in(inputs.d_out),
                                     in(inputs.q),
                                     in(inputs.k),
                                     in(inputs.v),
                                     inputs.log_sum_exp.data<float>(),
                                     output_dots.data<float>(),
                                     out(gradients.d_q),
                                     out(gradients.d_k),
                                     out(gradients.d_v)};
    with_padded_dim(shape.head_dim, [&]<int dim>(std::integral_constant<int, dim>) {
      constexpr int tile = backward_rows<dim>;
      const auto tiles_of = [](std::int64_t length) { return divide_up(length, tile); };
      const std::int64_t tiles = tiles_of(shape.query_length);
      const unsigned of_keys =
          tile_blocks("attention_backward", tiles_of(shape.key_length), kv_heads);
      const unsigned of_queries = tile_blocks("attention_backward", tiles, heads);
      if (of_keys > 0) {
        constexpr std::size_t bytes = backward_shared_bytes<dim>(2);
        allow_shared_memory(&key_gradients<T, dim>, bytes);
        key_gradients<T, dim>
            <<<of_keys, tile_threads, bytes, native_stream>>>(sizes, tensors, kv_heads);
        check_launch("attention_backward keys");
      }
      if (of_queries > 0) {
        constexpr std::size_t bytes = backward_shared_bytes<dim>(1);
        allow_shared_memory(&query_gradients<T, dim>, bytes);
        query_gradients<T, dim><<<of_queries, tile_threads, bytes, native_stream>>>(
            sizes, tensors, static_cast<int>(tiles), heads);
        check_launch("attention_backward queries");
      }
    });
  });
}

}  // namespace polymoe::cuda
