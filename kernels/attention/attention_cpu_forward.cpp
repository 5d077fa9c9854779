// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cpu_layout.h"
#include "kernels/attention/attention_cpu_tiles.h"
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/documents.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"

namespace polymoe::cpu {
namespace {

// One query over a cache of keys.
bool decodes(const AttentionShape& shape) {
  return shape.query_length == 1 && !shape.document_starts.defined();
}

// The memory of one thread: how many elements each part has, in this order.
struct Scratch {
  explicit Scratch(const AttentionShape& shape)
      : rows(std::min(tile_queries, shape.query_length)),
        scores(padded(rows * std::min(tile_keys, shape.key_length))),
        sums(padded(rows)),
        queries(padded(rows * shape.head_dim)),
        keys(padded(shape.key_length * shape.head_dim)) {}

  std::int64_t elements() const { return scores + sums + 2 * queries + 2 * keys; }

  std::int64_t rows, scores, sums, queries, keys;
};

template <class T>
class Forward {
 public:
  struct Arguments {
    const T *q, *k, *v;
    T *out, *log_sum_exp;
  };

  Forward(const AttentionShape& shape, const AttentionSpan& span, const Arguments& arguments,
          T* scratch)
      : layout_(shape, span), arguments_(arguments) {
    const Scratch parts(shape);
    scores_ = scratch;
    sums_ = scores_ + parts.scores;
    q_ = sums_ + parts.sums;
    out_ = q_ + parts.queries;
    k_ = out_ + parts.queries;
    v_ = k_ + parts.keys;
  }

  // Query tiles split, split + splits, ... of the heads on one key head.
  void heads(std::int64_t kv_head, std::int64_t split, std::int64_t splits) {
    const AttentionShape& shape = layout_.shape;
    const AttentionSpan& span = layout_.span;
    if (split * tile_queries >= span.queries) return;
    const std::int64_t group = shape.heads / shape.kv_heads;
    const std::int64_t key = layout_.key(kv_head, 0);
    copy_rows(span.keys, shape.head_dim, arguments_.k + key, layout_.key_stride, k_,
              shape.head_dim);
    copy_rows(span.keys, shape.head_dim, arguments_.v + key, layout_.key_stride, v_,
              shape.head_dim);
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (std::int64_t first = split * tile_queries; first < span.queries;
           first += splits * tile_queries) {
        query_tile(head, first);
      }
    }
  }

 private:
  void query_tile(std::int64_t head, std::int64_t first) {
    const std::int64_t dim = layout_.shape.head_dim;
    const std::int64_t rows = std::min(tile_queries, layout_.span.queries - first);
    const std::int64_t at = layout_.query(head, first);
    T* maximum = arguments_.log_sum_exp + layout_.row(head, first);
    copy_rows(rows, dim, arguments_.q + at, layout_.query_stride, q_, dim);
    // No tile reaches beyond the keys that the last of these queries sees.
    const std::int64_t end = layout_.visible(first + rows - 1);
    for (std::int64_t begin = 0; begin < end; begin += tile_keys) {
      const std::int64_t next = std::min(begin + tile_keys, end);
      for_row_blocks(layout_, first, rows, next,
                     [&](std::int64_t row, std::int64_t count, std::int64_t seen) {
                       score_tile(row, count, layout_.visible(first + row), begin, seen, maximum);
                     });
    }
    finish_softmax<T>(rows, state(0, maximum));
    copy_rows(rows, dim, out_, dim, arguments_.out + at, layout_.query_stride);
  }

  OnlineSoftmax<T> state(std::int64_t row, T* maximum) const {
    const std::int64_t dim = layout_.shape.head_dim;
    return {maximum + row, sums_ + row, out_ + row * dim, dim, dim};
  }

  // Scores the query tile's rows [row, row + rows), whose first sees `visible` keys, with keys
  // [begin, end).
  void score_tile(std::int64_t row, std::int64_t rows, std::int64_t visible, std::int64_t begin,
                  std::int64_t end, T* maximum) {
    if (begin >= end) return;
    const std::int64_t dim = layout_.shape.head_dim, columns = end - begin;
    gemm(rows, columns, dim, T{1}, {q_ + row * dim, dim, false}, {k_ + begin * dim, dim, true},
         T{0}, scores_, columns);
    const ScoreTile<T> tile{rows, columns, visible - begin, score_scale<T>(layout_.shape), scores_};
    softmax_tile<T>(tile, state(row, maximum), begin == 0);
    gemm(rows, dim, columns, T{1}, {scores_, columns, false}, {v_ + begin * dim, dim, false},
         begin == 0 ? T{0} : T{1}, out_ + row * dim, dim);
  }

  AttentionLayout layout_;
  Arguments arguments_;
  T *scores_, *sums_, *q_, *out_, *k_, *v_;
};

template <class T>
using Arguments = typename Forward<T>::Arguments;

template <class T>
void decode(const AttentionShape& shape, const Arguments<T>& a, std::int64_t sequence,
            std::int64_t head, T* scores) {
  const AttentionLayout layout(
      shape, {.sequence = sequence, .first = 0, .queries = 1, .keys = shape.key_length});
  const std::int64_t at = layout.query(head, 0);
  const std::int64_t key = layout.key(head / (shape.heads / shape.kv_heads), 0);
  attend<T>({shape.key_length, layout.key_stride, shape.head_dim, score_scale<T>(shape), a.q + at,
             a.k + key, a.v + key, scores, a.out + at, a.log_sum_exp + layout.row(head, 0)});
}

template <class T>
void clear(const AttentionShape& shape, const AttentionSpan& span, const Arguments<T>& a) {
  const AttentionLayout layout(shape, span);
  std::fill_n(a.out + layout.query(0, 0), span.queries * layout.query_stride, T{0});
  for (std::int64_t head = 0; head < shape.heads; ++head)
    std::fill_n(a.log_sum_exp + layout.row(head, 0), span.queries, T{0});
}

template <class T>
void run(const AttentionShape& shape, const Arguments<T>& arguments, const Tensor& tiles) {
  const auto scratch = [&] { return tiles.data<T>() + omp_get_thread_num() * tiles.dim(1); };
  if (decodes(shape)) {
    parallel_for(shape.batch * shape.heads, [&](std::int64_t task) {
      decode<T>(shape, arguments, task / shape.heads, task % shape.heads, scratch());
    });
    return;
  }
  const AttentionSpans spans(shape);
  for (const AttentionSpan& span : spans.empty) clear<T>(shape, span, arguments);
  const auto groups = static_cast<std::int64_t>(spans.documents.size()) * shape.kv_heads;
  if (groups == 0) return;
  const std::int64_t splits = std::min(divide_up(4 * omp_get_max_threads(), groups),
                                       divide_up(spans.longest, tile_queries));
  parallel_for(groups * splits, [&](std::int64_t task) {
    const std::int64_t group = task % groups;
    const auto span = static_cast<std::size_t>(group / shape.kv_heads);
    Forward<T>(shape, spans.documents[span], arguments, scratch())
        .heads(group % shape.kv_heads, task / groups, splits);
  });
}

}  // namespace

AttentionSpans::AttentionSpans(const AttentionShape& shape) {
  const std::int64_t length = shape.query_length;
  const auto add = [&](const AttentionSpan& span, bool document) {
    if (document) longest = std::max(longest, span.queries);
    (document ? documents : empty).push_back(span);
  };
  for (std::int64_t s = 0; s < shape.batch; ++s) {
    if (!shape.document_starts.defined()) {
      add({.sequence = s, .first = 0, .queries = length, .keys = shape.key_length}, true);
      continue;
    }
    const std::int32_t* starts = shape.document_starts.data<std::int32_t>() + s * length;
    for (std::int64_t first = 0, next = 0; first < length; first = next) {
      while (next < length && starts[next] == starts[first]) ++next;
      const bool document = starts[first] != no_document;
      if (document ? starts[first] != first : next != length)
        throw InvalidArgument("attention: document_starts of sequence " + std::to_string(s) +
                              " has " + std::to_string(starts[first]) + " at position " +
                              std::to_string(first) +
                              ", expected the position of its document's first row, or " +
                              std::to_string(no_document) + " from there to the end");
      add({.sequence = s, .first = first, .queries = next - first, .keys = next - first}, document);
    }
  }
}

Tensor allocate_attention_forward_tiles(const AttentionShape& shape, DType dtype, Arena& scratch) {
  const std::int64_t elements =
      decodes(shape) ? padded(shape.key_length) : Scratch(shape).elements();
  return scratch.allocate({omp_get_max_threads(), elements}, dtype);
}

}  // namespace polymoe::cpu

namespace polymoe::detail {

void attention_forward(CpuBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp,
                       const AttentionForwardScratch& scratch, Stream&) {
  if (out.elements() == 0) return;
  cpu::with_real(q.dtype(), [&]<class T>(T) {
    cpu::run<T>(shape,
                {q.data<T>(), k.data<T>(), v.data<T>(), out.data<T>(), log_sum_exp.data<T>()},
                scratch.tiles);
  });
}

}  // namespace polymoe::detail
