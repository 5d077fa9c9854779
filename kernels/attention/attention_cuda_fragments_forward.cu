// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/attention/attention_cuda_fragments.cuh"
#include "kernels/attention/attention_cuda_fragments.h"
#include "kernels/cuda/launch.cuh"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

struct ForwardTensors {
  const __nv_bfloat16 *q, *k, *v;
  __nv_bfloat16* out;
  float* log_sum_exp;
};

// The queries, and two tiles each of keys and values: one is worked on while the next one comes.
template <int dim>
constexpr std::size_t forward_shared_bytes = 5 * fragment_tile_bytes<dim>;

// A block per query tile of a head.
template <int dim>
__global__ void __launch_bounds__(fragment_threads)
    forward_fragments(AttentionSizes sizes, ForwardTensors t, int tiles, std::int64_t all_heads) {
  constexpr int tile = fragment_rows * dim;
  extern __shared__ float4 shared[];
  __nv_bfloat16* const queries = reinterpret_cast<__nv_bfloat16*>(shared);
  const auto [sequence, head, first, rows, at] = QueryTile<fragment_rows>(sizes, tiles, all_heads);
  const TileDocuments documents(sizes, sequence, first, rows);
  if (documents.of_others) return;
  // Query i sees the keys up to i + earlier.
  const std::int64_t earlier = sizes.key_length - sizes.query_length;
  const std::int64_t end = first + rows + earlier;
  const PassingKeys<dim> passing{queries + tile, t.k, t.v, sequence, head / sizes.group, end};
  WarpRows<dim / 8> out;
  out.clear();
  using Scores = WarpRows<fragment_groups>;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  int first_key[2], query[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    query[half] = static_cast<int>(first) + Scores::row(half);
    first_key[half] = static_cast<int>(sizes.first_key(sequence, query[half]));
  }
  // From the tile of the first key that any of these queries sees.
  std::int64_t begin = documents.first_key / fragment_rows * fragment_rows;
  const std::int64_t last_first_key = sizes.first_key(sequence, first + rows - 1);
  if (begin < end) {
    copy_tile_later<dim>(queries, t.q + at, sizes.query_stride, rows, sizes.head_dim);
    passing.copy_later(sizes, begin, 0);
  }
  for (int place = 0; begin < end; begin += fragment_rows, place = 1 - place) {
    wait_for_copies();
    __syncthreads();  // all are there, and nobody reads the tiles before these any more
    if (begin + fragment_rows < end) passing.copy_later(sizes, begin + fragment_rows, 1 - place);
    Scores scores;
    scores.template multiply<dim>(queries, passing.keys(place));
    if (begin + fragment_rows > first + earlier || begin < last_first_key) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int group = 0; group < fragment_groups; ++group) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int j = static_cast<int>(begin) + Scores::column(group, e);
            if (j > query[half] + static_cast<int>(earlier) || j < first_key[half])
              scores.at(group, half, e) = -INFINITY;
          }
        }
      }
    }
    const float factor = sizes.scale * log2_of_e;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float row_largest = largest[half];
#pragma unroll
      for (int group = 0; group < fragment_groups; ++group) {
        row_largest = fmaxf(row_largest, scores.at(group, half, 0));
        row_largest = fmaxf(row_largest, scores.at(group, half, 1));
      }
      row_largest = fragment_row_max(row_largest);
      const float before = largest[half];
      largest[half] = row_largest;
      // Nothing seen yet: exponentials of -infinity.
      const float base = row_largest == -INFINITY ? 0.0f : row_largest * factor;
      const float shrunk = exp2f(before * factor - base);
      float row_sum = 0.0f;
#pragma unroll
      for (int group = 0; group < fragment_groups; ++group) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores.at(group, half, e);
          score = exp2f(fmaf(score, factor, -base));
          row_sum += score;
        }
      }
      sum[half] = sum[half] * shrunk + row_sum;  // of the lane: the four meet at the end
#pragma unroll
      for (int group = 0; group < dim / 8; ++group) {
        out.at(group, half, 0) *= shrunk;
        out.at(group, half, 1) *= shrunk;
      }
    }
    out.add_product(scores, passing.values(place));
  }
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float all = fragment_row_sum(sum[half]);
    const bool nothing_seen = all == 0.0f;
    factor[half] = nothing_seen ? 0.0f : 1.0f / all;
    if (threadIdx.x % 4 == 0 && Scores::row(half) < rows) {
      t.log_sum_exp[sizes.row(sequence, head, query[half])] =
          nothing_seen ? 0.0f : largest[half] * sizes.scale + logf(all);
    }
  }
  out.store(t.out + at, sizes.query_stride, rows, sizes.head_dim, factor);
}

}  // namespace

void attention_fragments_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const Tensor& out, const Tensor& log_sum_exp,
                                 Stream& stream) {
  const std::int64_t heads = shape.batch * shape.heads;
  const std::int64_t tiles = divide_up(shape.query_length, fragment_rows);
  const unsigned blocks = tile_blocks("attention_forward", tiles, heads);
  if (blocks == 0) return;
  const AttentionSizes sizes(shape);
  const ForwardTensors tensors{bf16_values(q), bf16_values(k), bf16_values(v), bf16_values(out),
                               log_sum_exp.data<float>()};
  with_fragment_dim(shape.head_dim, [&]<int dim>(std::integral_constant<int, dim>) {
    launch_fragments("attention_forward on fragments", &forward_fragments<dim>, blocks,
                     forward_shared_bytes<dim>, stream, sizes, tensors, static_cast<int>(tiles),
                     heads);
  });
}

}  // namespace polymoe::cuda
