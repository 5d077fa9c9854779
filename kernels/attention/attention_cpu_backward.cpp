// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cpu_layout.h"
#include "kernels/attention/attention_cpu_tiles.h"
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/real_dtype.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cpu {
namespace {

// Tasks that keep the threads of a rank busy.
constexpr std::int64_t wanted_tasks = 16;
constexpr std::int64_t max_splits = 8;

std::int64_t split_count(const AttentionShape& shape) {
  const std::int64_t groups = std::max<std::int64_t>(shape.batch * shape.kv_heads, 1);
  const std::int64_t key_tiles = divide_up(shape.key_length, tile_keys);
  return std::max<std::int64_t>(std::min({divide_up(wanted_tasks, groups), key_tiles, max_splits}),
                                1);
}

// The memory of one thread: how many elements each part has.
struct Scratch {
  explicit Scratch(const AttentionShape& shape)
      : scores(padded(std::min(tile_queries, shape.query_length) *
                      std::min(tile_keys, shape.key_length))),
        queries(padded(std::min(tile_queries, shape.query_length) * shape.head_dim)),
        keys(padded(std::min(tile_keys, shape.key_length) * shape.head_dim)) {}

  std::int64_t elements() const { return 2 * scores + 2 * queries + 4 * keys; }

  std::int64_t scores, queries, keys;
};

template <class T>
class Backward {
 public:
  struct Arguments {
    const T *d_out, *q, *k, *v, *log_sum_exp, *output_dots;
    T *d_q, *d_k, *d_v, *d_q_partials;
  };

  Backward(const AttentionShape& shape, const AttentionSpan& span, const Arguments& arguments,
           T* scratch)
      : layout_(shape, span), arguments_(arguments) {
    const Scratch parts(shape);
    p_ = scratch;
    d_p_ = p_ + parts.scores;
    q_ = d_p_ + parts.scores;
    d_out_ = q_ + parts.queries;
    k_ = d_out_ + parts.queries;
    v_ = k_ + parts.keys;
    d_k_ = v_ + parts.keys;
    d_v_ = d_k_ + parts.keys;
  }

  // Key tiles split, split + splits, ... of one key head, with all query heads on it.
  void keys(std::int64_t kv_head, std::int64_t split, std::int64_t splits) {
    const AttentionShape& shape = layout_.shape;
    const AttentionSpan& span = layout_.span;
    const std::int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim;
    const std::int64_t elements = shape.batch * shape.query_length * layout_.query_stride;
    d_queries_ = split == 0 ? arguments_.d_q : arguments_.d_q_partials + (split - 1) * elements;
    for (std::int64_t i = 0; i < span.queries; ++i) {
      std::fill_n(d_queries_ + layout_.query(kv_head * group, i), group * dim, T{0});
    }
    for (std::int64_t begin = split * tile_keys; begin < span.keys; begin += splits * tile_keys) {
      const std::int64_t count = std::min(tile_keys, span.keys - begin);
      const std::int64_t key = layout_.key(kv_head, begin);
      copy_rows(count, dim, arguments_.k + key, layout_.key_stride, k_, dim);
      copy_rows(count, dim, arguments_.v + key, layout_.key_stride, v_, dim);
      std::fill_n(d_k_, count * dim, T{0});
      std::fill_n(d_v_, count * dim, T{0});
      // The first query that sees the tile's first key.
      const std::int64_t start = std::max<std::int64_t>(begin - (span.keys - span.queries), 0);
      for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (std::int64_t first = start; first < span.queries; first += tile_queries) {
          query_tile(head, first, begin, begin + count);
        }
      }
      copy_rows(count, dim, d_k_, dim, arguments_.d_k + key, layout_.key_stride);
      copy_rows(count, dim, d_v_, dim, arguments_.d_v + key, layout_.key_stride);
    }
  }

 private:
  // Queries from `first` with the copied keys [begin, end).
  void query_tile(std::int64_t head, std::int64_t first, std::int64_t begin, std::int64_t end) {
    const AttentionShape& shape = layout_.shape;
    const std::int64_t rows = std::min(tile_queries, layout_.span.queries - first);
    const std::int64_t at = layout_.query(head, first);
    copy_rows(rows, shape.head_dim, arguments_.q + at, layout_.query_stride, q_, shape.head_dim);
    copy_rows(rows, shape.head_dim, arguments_.d_out + at, layout_.query_stride, d_out_,
              shape.head_dim);
    for_row_blocks(layout_, first, rows, end,
                   [&](std::int64_t row, std::int64_t count, std::int64_t seen) {
                     score_tile(head, first, row, count, begin, seen);
                   });
  }

  // Scores rows [row, row + rows) of the query tile from `first` with keys [begin, end).
  void score_tile(std::int64_t head, std::int64_t first, std::int64_t row, std::int64_t rows,
                  std::int64_t begin, std::int64_t end) {
    const std::int64_t dim = layout_.shape.head_dim, columns = end - begin;
    const std::int64_t at = layout_.row(head, first + row);
    const GemmOperand<T> q{q_ + row * dim, dim, false}, d_out{d_out_ + row * dim, dim, false};
    gemm(rows, columns, dim, T{1}, q, {k_, dim, true}, T{0}, p_, columns);
    gemm(rows, columns, dim, T{1}, d_out, {v_, dim, true}, T{0}, d_p_, columns);
    softmax_gradient_tile<T>(
        {rows, columns, layout_.visible(first + row) - begin, score_scale<T>(layout_.shape), p_},
        arguments_.log_sum_exp + at, arguments_.output_dots + at, d_p_);
    gemm(columns, dim, rows, T{1}, {p_, columns, true}, d_out, T{1}, d_v_, dim);
    gemm(columns, dim, rows, T{1}, {d_p_, columns, true}, q, T{1}, d_k_, dim);
    gemm(rows, dim, columns, T{1}, {d_p_, columns, false}, {k_, dim, false}, T{1},
         d_queries_ + layout_.query(head, first + row), layout_.query_stride);
  }

  AttentionLayout layout_;
  Arguments arguments_;
  T *p_, *d_p_, *q_, *d_out_, *k_, *v_, *d_k_, *d_v_;
  T* d_queries_ = nullptr;
};

// <d_out, out> of every row.
template <class T>
void multiply_outputs(const AttentionShape& shape, const T* d_out, const T* out, T* output_dots) {
  const std::int64_t rows = shape.batch * shape.query_length;
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const AttentionLayout layout(
        shape, {.sequence = r / shape.query_length, .first = 0, .queries = 0, .keys = 0});
    const std::int64_t i = r % shape.query_length;
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const std::int64_t at = layout.query(head, i);
      output_dots[layout.row(head, i)] = dot<T>(d_out + at, out + at, shape.head_dim);
    }
  }
}

// The gradients of rows without a document, in every split's sum.
template <class T>
void clear(const AttentionShape& shape, const AttentionSpan& span,
           const typename Backward<T>::Arguments& a, std::int64_t splits) {
  const AttentionLayout layout(shape, span);
  const std::int64_t elements = shape.batch * shape.query_length * layout.query_stride;
  for (std::int64_t split = 0; split < splits; ++split) {
    T* d_q = split == 0 ? a.d_q : a.d_q_partials + (split - 1) * elements;
    std::fill_n(d_q + layout.query(0, 0), span.queries * layout.query_stride, T{0});
  }
  std::fill_n(a.d_k + layout.key(0, 0), span.keys * layout.key_stride, T{0});
  std::fill_n(a.d_v + layout.key(0, 0), span.keys * layout.key_stride, T{0});
}

template <class T>
void run(const AttentionShape& shape, const typename Backward<T>::Arguments& arguments,
         const Tensor& tiles, std::int64_t splits) {
  const AttentionSpans spans(shape);
  for (const AttentionSpan& span : spans.empty) clear<T>(shape, span, arguments, splits);
  const auto groups = static_cast<std::int64_t>(spans.documents.size()) * shape.kv_heads;
  parallel_for(groups * splits, [&](std::int64_t task) {
    const std::int64_t group = task % groups;
    const auto span = static_cast<std::size_t>(group / shape.kv_heads);
    T* scratch = tiles.data<T>() + omp_get_thread_num() * tiles.dim(1);
    Backward<T>(shape, spans.documents[span], arguments, scratch)
        .keys(group % shape.kv_heads, task / groups, splits);
  });
  const std::int64_t elements = shape.batch * shape.query_length * shape.heads * shape.head_dim;
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < elements; ++i) {
    for (std::int64_t split = 1; split < splits; ++split) {
      arguments.d_q[i] += arguments.d_q_partials[(split - 1) * elements + i];
    }
  }
}

}  // namespace

detail::AttentionBackwardScratch allocate_attention_backward_scratch(const AttentionShape& shape,
                                                                     DType dtype, Arena& scratch) {
  const std::int64_t queries = shape.batch * shape.query_length * shape.heads;
  return {scratch.allocate({omp_get_max_threads(), Scratch(shape).elements()}, dtype),
          scratch.allocate({shape.batch, shape.heads, shape.query_length}, dtype),
          scratch.allocate({split_count(shape) - 1, queries * shape.head_dim}, dtype)};
}

}  // namespace polymoe::cpu

namespace polymoe::detail {

void attention_backward(CpuBackend, const AttentionShape& shape,
                        const AttentionBackwardInputs& inputs, const AttentionGradients& gradients,
                        const AttentionBackwardScratch& scratch, Stream&) {
  cpu::with_real(inputs.q.dtype(), [&]<class T>(T) {
    T* output_dots = scratch.output_dots.data<T>();
    cpu::multiply_outputs(shape, inputs.d_out.data<T>(), inputs.out.data<T>(), output_dots);
    cpu::run<T>(shape,
                {inputs.d_out.data<T>(), inputs.q.data<T>(), inputs.k.data<T>(), inputs.v.data<T>(),
                 inputs.log_sum_exp.data<T>(), output_dots, gradients.d_q.data<T>(),
                 gradients.d_k.data<T>(), gradients.d_v.data<T>(), scratch.d_q_partials.data<T>()},
                scratch.tiles, scratch.d_q_partials.dim(0) + 1);
  });
}

}  // namespace polymoe::detail
