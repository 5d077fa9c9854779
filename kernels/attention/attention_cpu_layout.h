// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/attention/attention.h"
#include "runtime/rounding.h"

namespace polymoe::cpu {

/// Queries and keys of a sequence that see none but each other: a document, or all of it.
struct AttentionSpan {
  std::int64_t sequence = 0;
  std::int64_t first = 0;  // place of the first query and the first key
  std::int64_t queries = 0;
  std::int64_t keys = 0;
};

/// Those of a call, and the rows that belong to no document.
struct AttentionSpans {
  /// Throws InvalidArgument on document_starts that do not make documents.
  explicit AttentionSpans(const AttentionShape& shape);

  std::vector<AttentionSpan> documents, empty;
  std::int64_t longest = 0;  // queries
};

/// Where the rows of a head in one span begin, and how far apart they are.
struct AttentionLayout {
  AttentionLayout(const AttentionShape& s, const AttentionSpan& which)
      : shape(s),
        span(which),
        query_stride(s.heads * s.head_dim),
        key_stride(s.kv_heads * s.head_dim) {}

  std::int64_t query(std::int64_t head, std::int64_t i) const {
    return (span.sequence * shape.query_length + span.first + i) * query_stride +
           head * shape.head_dim;
  }
  std::int64_t key(std::int64_t kv_head, std::int64_t j) const {
    return (span.sequence * shape.key_length + span.first + j) * key_stride +
           kv_head * shape.head_dim;
  }
  std::int64_t row(std::int64_t head, std::int64_t i) const {
    return (span.sequence * shape.heads + head) * shape.query_length + span.first + i;
  }
  /// Keys that query i sees.
  std::int64_t visible(std::int64_t i) const { return span.keys - span.queries + i + 1; }

  const AttentionShape& shape;
  AttentionSpan span;
  std::int64_t query_stride, key_stride;
};

/// A tile of scores, and what meets it, fits the second-level cache; measured.
constexpr std::int64_t tile_queries = 128;
constexpr std::int64_t tile_keys = 256;

/// Calls body(row, rows, end) for blocks of the query tile [first, first + rows) with the keys of a
/// tile [.., end): all rows at once where each sees all of these keys, else 64 at a time, each
/// block with the keys that its last row sees.
template <class Body>
void for_row_blocks(const AttentionLayout& layout, std::int64_t first, std::int64_t rows,
                    std::int64_t end, const Body& body) {
  constexpr std::int64_t diagonal_rows = 64;
  const std::int64_t step = layout.visible(first) >= end ? rows : std::min(rows, diagonal_rows);
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    body(row, count, std::min(end, layout.visible(first + row + count - 1)));
  }
}

/// The scores' factor, 1 / sqrt(head_dim).
template <class T>
T score_scale(const AttentionShape& shape) {
  return static_cast<T>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

/// Rows of one head are a power of two apart in the model's tensors, so that a tile of them meets
/// itself in few sets of the caches: products take them from copies, one row after the other.
template <class T>
void copy_rows(std::int64_t rows, std::int64_t width, const T* from, std::int64_t from_stride,
               T* to, std::int64_t to_stride) {
  for (std::int64_t row = 0; row < rows; ++row) {
    std::copy_n(from + row * from_stride, width, to + row * to_stride);
  }
}

/// Elements of a part of a thread's scratch, so that the next part begins on a cache line.
inline std::int64_t padded(std::int64_t elements) { return divide_up(elements, 16) * 16; }

}  // namespace polymoe::cpu
