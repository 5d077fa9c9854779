// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/real_dtype.h"

namespace polymoe::cpu {
namespace {

// A tile of scores and what meets it fit the second-level cache; measured.
constexpr std::int64_t tile_queries = 128;
constexpr std::int64_t tile_keys = 512;
constexpr std::int64_t backward_tile_keys = 256;
// Tasks of the backward pass that keep the threads of a rank busy.
constexpr std::int64_t wanted_tasks = 16;
constexpr std::int64_t max_splits = 8;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t padded(std::int64_t elements) { return ceil_div(elements, 16) * 16; }

std::int64_t backward_tile_elements(const AttentionShape& shape) {
  return padded(std::min(tile_queries, shape.query_length) *
                std::min(backward_tile_keys, shape.key_length));
}

std::int64_t split_count(const AttentionShape& shape) {
  const std::int64_t groups = std::max<std::int64_t>(shape.batch * shape.kv_heads, 1);
  const std::int64_t key_tiles = ceil_div(shape.key_length, backward_tile_keys);
  return std::max<std::int64_t>(std::min({ceil_div(wanted_tasks, groups), key_tiles, max_splits}),
                                1);
}

// Where the rows of one (sequence, head) begin, and how far apart they are.
struct Layout {
  explicit Layout(const AttentionShape& s)
      : shape(s), query_stride(s.heads * s.head_dim), key_stride(s.kv_heads * s.head_dim) {}

  std::int64_t query(std::int64_t sequence, std::int64_t head, std::int64_t i) const {
    return (sequence * shape.query_length + i) * query_stride + head * shape.head_dim;
  }
  std::int64_t key(std::int64_t sequence, std::int64_t kv_head, std::int64_t j) const {
    return (sequence * shape.key_length + j) * key_stride + kv_head * shape.head_dim;
  }
  std::int64_t row(std::int64_t sequence, std::int64_t head, std::int64_t i) const {
    return (sequence * shape.heads + head) * shape.query_length + i;
  }
  // Keys that query i sees.
  std::int64_t visible(std::int64_t i) const {
    return shape.key_length - shape.query_length + i + 1;
  }

  const AttentionShape& shape;
  std::int64_t query_stride, key_stride;
};

template <class T>
T score_scale(const AttentionShape& shape) {
  return static_cast<T>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

template <class T>
void zero_rows(T* first, std::int64_t rows, std::int64_t stride, std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row) std::fill_n(first + row * stride, width, T{0});
}

template <class T>
struct Forward {
  Layout layout;
  const T *q, *k, *v;
  T *out, *log_sum_exp;

  void query_tile(std::int64_t sequence, std::int64_t head, std::int64_t first, T* scores) const {
    const AttentionShape& shape = layout.shape;
    const std::int64_t dim = shape.head_dim;
    const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const std::int64_t rows = std::min(tile_queries, shape.query_length - first);
    const std::int64_t at = layout.query(sequence, head, first);
    T* sums = scores + padded(std::min(tile_queries, shape.query_length) *
                              std::min(tile_keys, shape.key_length));
    const OnlineSoftmax<T> state{log_sum_exp + layout.row(sequence, head, first), sums, out + at,
                                 layout.query_stride, dim};
    // No tile reaches beyond the keys that the last of these queries sees.
    const std::int64_t end = layout.visible(first + rows - 1);
    for (std::int64_t begin = 0; begin < end; begin += tile_keys) {
      const std::int64_t columns = std::min(tile_keys, end - begin);
      const std::int64_t key = layout.key(sequence, kv_head, begin);
      gemm(rows, columns, dim, T{1}, {q + at, layout.query_stride, false},
           {k + key, layout.key_stride, true}, T{0}, scores, columns);
      softmax_tile({rows, columns, layout.visible(first) - begin, score_scale<T>(shape), scores},
                   state, begin == 0);
      gemm(rows, dim, columns, T{1}, {scores, columns, false}, {v + key, layout.key_stride, false},
           begin == 0 ? T{0} : T{1}, out + at, layout.query_stride);
    }
    finish_softmax(rows, state);
  }

  void decode(std::int64_t sequence, std::int64_t head, T* scores) const {
    const AttentionShape& shape = layout.shape;
    const std::int64_t at = layout.query(sequence, head, 0);
    const std::int64_t key = layout.key(sequence, head / (shape.heads / shape.kv_heads), 0);
    attend({shape.key_length, layout.key_stride, shape.head_dim, score_scale<T>(shape), q + at,
            k + key, v + key, scores, out + at, log_sum_exp + layout.row(sequence, head, 0)});
  }
};

template <class T>
struct Backward {
  Layout layout;
  const T *d_out, *q, *k, *v, *log_sum_exp, *output_dots;
  T *d_q, *d_k, *d_v, *d_q_partials;

  // Key tiles split, split + splits, ... of one (sequence, key head), with all query heads on it.
  void keys(std::int64_t sequence, std::int64_t kv_head, std::int64_t split, std::int64_t splits,
            T* tiles) const {
    const AttentionShape& shape = layout.shape;
    const std::int64_t group = shape.heads / shape.kv_heads;
    const std::int64_t elements = shape.batch * shape.query_length * layout.query_stride;
    T* d_queries = split == 0 ? d_q : d_q_partials + (split - 1) * elements;
    zero_rows(d_queries + layout.query(sequence, kv_head * group, 0), shape.query_length,
              layout.query_stride, group * shape.head_dim);
    for (std::int64_t begin = split * backward_tile_keys; begin < shape.key_length;
         begin += splits * backward_tile_keys) {
      const std::int64_t columns = std::min(backward_tile_keys, shape.key_length - begin);
      const std::int64_t key = layout.key(sequence, kv_head, begin);
      zero_rows(d_k + key, columns, layout.key_stride, shape.head_dim);
      zero_rows(d_v + key, columns, layout.key_stride, shape.head_dim);
      // The first query that sees the tile's first key.
      const std::int64_t start =
          std::max<std::int64_t>(begin - (shape.key_length - shape.query_length), 0);
      for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (std::int64_t first = start; first < shape.query_length; first += tile_queries) {
          tile(sequence, head, first, begin, columns, key, d_queries, tiles);
        }
      }
    }
  }

  void tile(std::int64_t sequence, std::int64_t head, std::int64_t first, std::int64_t begin,
            std::int64_t max_columns, std::int64_t key, T* d_queries, T* tiles) const {
    const AttentionShape& shape = layout.shape;
    const std::int64_t dim = shape.head_dim;
    const std::int64_t rows = std::min(tile_queries, shape.query_length - first);
    const std::int64_t columns = std::min(max_columns, layout.visible(first + rows - 1) - begin);
    const std::int64_t at = layout.query(sequence, head, first);
    const std::int64_t row = layout.row(sequence, head, first);
    T* p = tiles;
    T* d_p = tiles + backward_tile_elements(shape);
    const std::int64_t query_stride = layout.query_stride, key_stride = layout.key_stride;
    gemm(rows, columns, dim, T{1}, {q + at, query_stride, false}, {k + key, key_stride, true}, T{0},
         p, columns);
    gemm(rows, columns, dim, T{1}, {d_out + at, query_stride, false}, {v + key, key_stride, true},
         T{0}, d_p, columns);
    softmax_gradient_tile({rows, columns, layout.visible(first) - begin, score_scale<T>(shape), p},
                          log_sum_exp + row, output_dots + row, d_p);
    gemm(columns, dim, rows, T{1}, {p, columns, true}, {d_out + at, query_stride, false}, T{1},
         d_v + key, key_stride);
    gemm(columns, dim, rows, T{1}, {d_p, columns, true}, {q + at, query_stride, false}, T{1},
         d_k + key, key_stride);
    gemm(rows, dim, columns, T{1}, {d_p, columns, false}, {k + key, key_stride, false}, T{1},
         d_queries + at, query_stride);
  }
};

template <class T>
void run_forward(const Forward<T>& forward, const Tensor& tiles) {
  const AttentionShape& shape = forward.layout.shape;
  const std::int64_t query_tiles = ceil_div(shape.query_length, tile_queries);
  const std::int64_t heads = shape.batch * shape.heads;
  // Late queries see the most keys: they go first, so that no long task is left for the end.
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t task = 0; task < heads * query_tiles; ++task) {
    T* scores = tiles.data<T>() + omp_get_thread_num() * tiles.dim(1);
    const std::int64_t sequence = task % heads / shape.heads, head = task % shape.heads;
    if (shape.query_length == 1) {
      forward.decode(sequence, head, scores);
    } else {
      forward.query_tile(sequence, head, (query_tiles - 1 - task / heads) * tile_queries, scores);
    }
  }
}

template <class T>
void run_backward(const Backward<T>& backward, const T* out, T* output_dots, const Tensor& tiles,
                  std::int64_t splits) {
  const Layout& layout = backward.layout;
  const AttentionShape& shape = layout.shape;
  const std::int64_t rows = shape.batch * shape.query_length;
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t sequence = r / shape.query_length, i = r % shape.query_length;
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const std::int64_t at = layout.query(sequence, head, i);
      output_dots[layout.row(sequence, head, i)] =
          dot(backward.d_out + at, out + at, shape.head_dim);
    }
  }
  const std::int64_t groups = shape.batch * shape.kv_heads;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t task = 0; task < groups * splits; ++task) {
    const std::int64_t group = task % groups;
    backward.keys(group / shape.kv_heads, group % shape.kv_heads, task / groups, splits,
                  tiles.data<T>() + omp_get_thread_num() * tiles.dim(1));
  }
  const std::int64_t elements = rows * layout.query_stride;
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < elements; ++i) {
    for (std::int64_t split = 1; split < splits; ++split) {
      backward.d_q[i] += backward.d_q_partials[(split - 1) * elements + i];
    }
  }
}

}  // namespace

Tensor allocate_attention_forward_tiles(const AttentionShape& shape, DType dtype, Arena& scratch) {
  const std::int64_t rows = std::min(tile_queries, shape.query_length);
  const std::int64_t elements =
      shape.query_length == 1 ? padded(shape.key_length)
                              : padded(rows * std::min(tile_keys, shape.key_length)) + padded(rows);
  return scratch.allocate({omp_get_max_threads(), elements}, dtype);
}

detail::AttentionBackwardScratch allocate_attention_backward_scratch(const AttentionShape& shape,
                                                                     DType dtype, Arena& scratch) {
  const std::int64_t queries = shape.batch * shape.query_length * shape.heads;
  return {scratch.allocate({omp_get_max_threads(), 2 * backward_tile_elements(shape)}, dtype),
          scratch.allocate({shape.batch, shape.heads, shape.query_length}, dtype),
          scratch.allocate({split_count(shape) - 1, queries * shape.head_dim}, dtype)};
}

}  // namespace polymoe::cpu

namespace polymoe::detail {

void attention_forward(CpuBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Tensor tiles, Stream&) {
  cpu::with_real(q.dtype(), [&]<class T>(T) {
    cpu::run_forward(cpu::Forward<T>{cpu::Layout(shape), q.data<T>(), k.data<T>(), v.data<T>(),
                                     out.data<T>(), log_sum_exp.data<T>()},
                     tiles);
  });
}

void attention_backward(CpuBackend, const AttentionShape& shape,
                        const AttentionBackwardInputs& inputs, const AttentionGradients& gradients,
                        const AttentionBackwardScratch& scratch, Stream&) {
  cpu::with_real(inputs.q.dtype(), [&]<class T>(T) {
    T* output_dots = scratch.output_dots.data<T>();
    cpu::run_backward(
        cpu::Backward<T>{cpu::Layout(shape), inputs.d_out.data<T>(), inputs.q.data<T>(),
                         inputs.k.data<T>(), inputs.v.data<T>(), inputs.log_sum_exp.data<T>(),
                         output_dots, gradients.d_q.data<T>(), gradients.d_k.data<T>(),
                         gradients.d_v.data<T>(), scratch.d_q_partials.data<T>()},
        inputs.out.data<T>(), output_dots, scratch.tiles, scratch.d_q_partials.dim(0) + 1);
  });
}

}  // namespace polymoe::detail
