// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/attention/attention_cuda_fragments.cuh"
#include "kernels/attention/attention_cuda_fragments.h"
#include "kernels/attention/attention_cuda_tiles.h"
#include "kernels/cuda/launch.cuh"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

struct BackwardTensors {
  const __nv_bfloat16 *d_out, *q, *k, *v;
  const float *log_sum_exp, *output_dots;
  __nv_bfloat16 *d_q, *d_k, *d_v;
};

using Scores = WarpRows<fragment_groups>;

// What the queries of a tile have one of each, beside their heads.
struct QueryRows {
  float log_sum_exp[fragment_rows], output_dots[fragment_rows];
  std::int32_t first_key[fragment_rows];
};

// Two tiles that stay and twice two that pass.
template <int dim>
constexpr std::size_t query_shared_bytes = 6 * fragment_tile_bytes<dim>;
template <int dim>
constexpr std::size_t key_shared_bytes = query_shared_bytes<dim> + 2 * sizeof(QueryRows);

// A block per key tile of a key head: d_v = p^T d_out and d_k = d_s^T q over the queries of the
// heads on it, p = exp(s - log_sum_exp), d_s = p (d_p - output_dots) scale, d_p = d_out v^T.
template <int dim>
__global__ void __launch_bounds__(fragment_threads)
    key_gradients_of_documents(AttentionSizes sizes, BackwardTensors t, std::int64_t all_heads) {
  constexpr int tile = fragment_rows * dim;
  extern __shared__ float4 shared[];
  __nv_bfloat16* const keys = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* const values = keys + tile;
  __nv_bfloat16* const queries = keys + 2 * tile;
  __nv_bfloat16* const d_outs = keys + 4 * tile;
  QueryRows* const query_rows = reinterpret_cast<QueryRows*>(keys + 6 * tile);
  const auto [sequence, kv_head, begin, columns, key] = KeyTile<fragment_rows>(sizes, all_heads);
  const TileDocuments documents(sizes, sequence, begin, columns);
  if (documents.of_others) return;
  // The tiles of queries that see one of these keys: from this one to that of the last query whose
  // document begins before the last key.
  std::int64_t end = documents.first_key < begin + fragment_rows ? begin + fragment_rows : begin;
  while (end < sizes.query_length && sizes.first_key(sequence, end) < begin + fragment_rows) {
    end += fragment_rows;
  }
  end = min(end, sizes.query_length);
  const auto copy_queries_later = [&](int head, std::int64_t first, int place) {
    const std::int64_t at = sizes.query(sequence, head, first);
    const std::int64_t rows = sizes.query_length - first;
    copy_tile_later<dim>(queries + place * tile, t.q + at, sizes.query_stride, rows,
                         sizes.head_dim);
    copy_tile_later<dim>(d_outs + place * tile, t.d_out + at, sizes.query_stride, rows,
                         sizes.head_dim);
    const int row = static_cast<int>(threadIdx.x);
    if (row >= fragment_rows) return;
    const bool there = row < rows;
    const std::int64_t i = there ? row : 0;
    const std::int64_t of_head = sizes.row(sequence, head, first + i);
    QueryRows& to = query_rows[place];
    copy_4_bytes_later(&to.log_sum_exp[row], t.log_sum_exp + of_head, there);
    copy_4_bytes_later(&to.output_dots[row], t.output_dots + of_head, there);
    copy_4_bytes_later(&to.first_key[row],
                       sizes.document_starts + sequence * sizes.query_length + first + i, there);
  };
  WarpRows<dim / 8> d_k, d_v;
  d_k.clear();
  d_v.clear();
  const int last_head = (kv_head + 1) * sizes.group;
  int head = kv_head * sizes.group;
  std::int64_t first = begin;
  if (first < end) {
    copy_tile_later<dim>(keys, t.k + key, sizes.key_stride, columns, sizes.head_dim);
    copy_tile_later<dim>(values, t.v + key, sizes.key_stride, columns, sizes.head_dim);
    copy_queries_later(head, first, 0);
  }
  for (int place = 0; first < end && head < last_head; place = 1 - place) {
    wait_for_copies();
    __syncthreads();  // all are there, and nobody reads the tiles before these any more
    const bool next_head = first + fragment_rows >= end;
    const std::int64_t next = next_head ? begin : first + fragment_rows;
    if (head + next_head < last_head) copy_queries_later(head + next_head, next, 1 - place);
    const QueryRows& of_query = query_rows[place];
    Scores p, d_s;  // a row per key
    p.template multiply<dim>(keys, queries + place * tile);
    d_s.template multiply<dim>(values, d_outs + place * tile);
#pragma unroll
    for (int group = 0; group < fragment_groups; ++group) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = Scores::column(group, e);
        const int i = static_cast<int>(first) + column;
        const float base = of_query.log_sum_exp[column] * log2_of_e;
        const float output_dot = of_query.output_dots[column];
        const int first_key = of_query.first_key[column];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int j = static_cast<int>(begin) + Scores::row(half);
          const bool seen = j >= first_key && j <= i && i < sizes.query_length;
          float& weight = p.at(group, half, e);
          weight = seen ? exp2f(fmaf(weight, sizes.scale * log2_of_e, -base)) : 0.0f;
          d_s.at(group, half, e) = weight * (d_s.at(group, half, e) - output_dot);
        }
      }
    }
    d_v.add_product(p, d_outs + place * tile);
    d_k.add_product(d_s, queries + place * tile);
    first = next;
    head += next_head;
  }
  d_k.store(t.d_k + key, sizes.key_stride, columns, sizes.head_dim, {sizes.scale, sizes.scale});
  d_v.store(t.d_v + key, sizes.key_stride, columns, sizes.head_dim, {1.0f, 1.0f});
}

// A block per query tile of a head: d_q = d_s k over the keys that its queries see.
template <int dim>
__global__ void __launch_bounds__(fragment_threads)
    query_gradients_of_documents(AttentionSizes sizes, BackwardTensors t, int tiles,
                                 std::int64_t all_heads) {
  constexpr int tile = fragment_rows * dim;
  extern __shared__ float4 shared[];
  __nv_bfloat16* const queries = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* const d_outs = queries + tile;
  const auto [sequence, head, first, rows, at] = QueryTile<fragment_rows>(sizes, tiles, all_heads);
  const TileDocuments documents(sizes, sequence, first, rows);
  if (documents.of_others) return;
  const std::int64_t end = first + rows;
  const PassingKeys<dim> passing{queries + 2 * tile, t.k, t.v, sequence, head / sizes.group, end};
  float base[2], output_dot[2];
  int query[2], first_key[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    query[half] = static_cast<int>(first) + Scores::row(half);
    const bool there = query[half] < end;
    const std::int64_t place = sizes.row(sequence, head, there ? query[half] : first);
    base[half] = there ? t.log_sum_exp[place] * log2_of_e : 0.0f;
    output_dot[half] = there ? t.output_dots[place] : 0.0f;
    first_key[half] = static_cast<int>(sizes.first_key(sequence, query[half]));
  }
  WarpRows<dim / 8> d_q;
  d_q.clear();
  std::int64_t begin = documents.first_key / fragment_rows * fragment_rows;
  if (begin < end) {
    copy_tile_later<dim>(queries, t.q + at, sizes.query_stride, rows, sizes.head_dim);
    copy_tile_later<dim>(d_outs, t.d_out + at, sizes.query_stride, rows, sizes.head_dim);
    passing.copy_later(sizes, begin, 0);
  }
  for (int place = 0; begin < end; begin += fragment_rows, place = 1 - place) {
    wait_for_copies();
    __syncthreads();  // all are there, and nobody reads the tiles before these any more
    if (begin + fragment_rows < end) passing.copy_later(sizes, begin + fragment_rows, 1 - place);
    Scores s, d_s;
    s.template multiply<dim>(queries, passing.keys(place));
    d_s.template multiply<dim>(d_outs, passing.values(place));
#pragma unroll
    for (int group = 0; group < fragment_groups; ++group) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = static_cast<int>(begin) + Scores::column(group, e);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool seen = j >= first_key[half] && j <= query[half];
          const float score = s.at(group, half, e) * (sizes.scale * log2_of_e);
          const float p = seen ? exp2f(score - base[half]) : 0.0f;
          d_s.at(group, half, e) = p * (d_s.at(group, half, e) - output_dot[half]);
        }
      }
    }
    d_q.add_product(d_s, passing.keys(place));
  }
  d_q.store(t.d_q + at, sizes.query_stride, rows, sizes.head_dim, {sizes.scale, sizes.scale});
}

}  // namespace

void attention_fragments_backward(const AttentionShape& shape,
                                  const detail::AttentionBackwardInputs& inputs,
                                  const detail::AttentionGradients& gradients,
                                  const Tensor& output_dots, Stream& stream) {
  const std::int64_t heads = shape.batch * shape.heads;
  const std::int64_t kv_heads = shape.batch * shape.kv_heads;
  const std::int64_t tiles = divide_up(shape.query_length, fragment_rows);
  const unsigned of_keys = tile_blocks("attention_backward", tiles, kv_heads);
  const unsigned of_queries = tile_blocks("attention_backward", tiles, heads);
  if (of_queries == 0) return;
  attention_output_dots(shape, inputs.d_out, inputs.out, output_dots, stream);
  const AttentionSizes sizes(shape);
  const BackwardTensors tensors{bf16_values(inputs.d_out),
                                bf16_values(inputs.q),
                                bf16_values(inputs.k),
                                bf16_values(inputs.v),
                                inputs.log_sum_exp.data<float>(),
                                output_dots.data<float>(),
                                bf16_values(gradients.d_q),
                                bf16_values(gradients.d_k),
                                bf16_values(gradients.d_v)};
  with_fragment_dim(shape.head_dim, [&]<int dim>(std::integral_constant<int, dim>) {
    launch_fragments("attention_backward keys of documents", &key_gradients_of_documents<dim>,
                     of_keys, key_shared_bytes<dim>, stream, sizes, tensors, kv_heads);
    launch_fragments("attention_backward queries of documents", &query_gradients_of_documents<dim>,
                     of_queries, query_shared_bytes<dim>, stream, sizes, tensors,
                     static_cast<int>(tiles), heads);
  });
}

}  // namespace polymoe::cuda
