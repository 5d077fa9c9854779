// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#ifdef __CUDACC__
#define POLYMOE_ON_BOTH __host__ __device__
#else
#define POLYMOE_ON_BOTH
#endif

/// The documents of a window that cuDNN computes, each as a sequence of its own: those longer than
/// a quarter of the window. There are three of them at most, so that a window has few places for
/// them, and the memory and the time of empty ones are small. Shorter ones go to
/// attention_cuda_fragments_*.cu, which leave more out.
namespace polymoe::cuda {

/// The longest document that is none of these.
constexpr std::int64_t short_document(std::int64_t window) { return (window + 3) / 4; }

/// The shortest window with documents for cuDNN: in shorter ones a call costs more than it saves.
constexpr std::int64_t least_window_of_long_documents = 256;

/// What one call of cuDNN takes: documents of up to `length` rows, at most `places` in a window.
struct LongDocuments {
  std::int64_t length = 0;
  std::int64_t places = 0;
};
constexpr std::size_t long_document_calls = 2;
/// Up to half a window there may be three, longer than that is one.
inline std::array<LongDocuments, long_document_calls> long_documents_of(std::int64_t window) {
  return {{{(window + 1) / 2, 3}, {window, 1}}};
}

/// Call c as cuDNN sees it: each place a sequence of its own.
inline AttentionShape shape_of_long_documents(const AttentionShape& shape, std::size_t c) {
  const LongDocuments call = long_documents_of(shape.query_length)[c];
  AttentionShape documents = shape;
  documents.batch = shape.batch * call.places;
  documents.query_length = documents.key_length = call.length;
  documents.document_starts = {};
  return documents;
}

/// Where the long documents of a window lie.
struct LongDocumentRows {
  int count = 0;
  std::int32_t begin[3] = {}, end[3] = {};
};

/// From `starts` [window] (kernels/documents.h), in about 4 log2(window) reads: a long document has
/// one of four rows, a quarter of the window apart.
POLYMOE_ON_BOTH inline LongDocumentRows find_long_documents(const std::int32_t* starts,
                                                            std::int32_t window) {
  LongDocumentRows found;
  const std::int32_t least = static_cast<std::int32_t>(short_document(window));
  std::int32_t end = 0;  // of the document before
  for (std::int32_t row = 0; row < window; row += least) {
    const std::int32_t begin = starts[row];
    if (begin > row || row < end) continue;  // no document, or the one before
    std::int32_t inside = row, outside = window;
    while (outside - inside > 1) {
      const std::int32_t middle = inside + (outside - inside) / 2;
      (starts[middle] == begin ? inside : outside) = middle;
    }
    end = outside;
    if (end - begin <= least) continue;
    found.begin[found.count] = begin;
    found.end[found.count] = end;
    ++found.count;
  }
  return found;
}

/// What a call of cuDNN reads on the device, for `documents.places` places of each window: rows of
/// each place's document, 0 of an empty one, and the elements before it in tensors of queries and
/// of keys and in log_sum_exp, with one more that closes the last.
struct LongDocumentTables {
  Tensor lengths;                                  // [places] i32
  Tensor query_offsets, key_offsets, row_offsets;  // [places + 1] i64
};

/// The tables of both calls, and document_starts with `of_other_kernels` for the rows that cuDNN
/// computes: what our own kernels are given instead.
struct LongDocumentPlan {
  Tensor short_starts;                              // [batch * query_length] i32
  bool some_short = true;                           // else there is nothing for our own kernels
  std::array<bool, long_document_calls> some = {};  // else no document is one of this call's
  std::array<LongDocumentTables, long_document_calls> tables;
};
/// Beyond no_document: such a row sees nothing and is seen by nothing.
constexpr std::int32_t of_other_kernels = (std::int32_t{1} << 30) + 1;

/// Bytes of a plan, each of whose tensors begins at a multiple of 16.
inline std::int64_t long_document_plan_bytes(const AttentionShape& shape) {
  const auto in_memory = [](std::int64_t bytes) { return round_up(bytes, 16); };
  std::int64_t bytes = in_memory(shape.batch * shape.query_length * 4);
  for (const LongDocuments& call : long_documents_of(shape.query_length)) {
    const std::int64_t places = shape.batch * call.places;
    bytes += in_memory(places * 4) + 3 * in_memory((places + 1) * 8);
  }
  return bytes;
}

/// Whether a call may have long documents, as far as the host knows.
inline bool may_have_long_documents(const AttentionShape& shape) {
  return shape.document_lengths.longest > short_document(shape.query_length);
}

/// Fills a plan in `memory` [long_document_plan_bytes(shape)] u8, by one kernel.
LongDocumentPlan plan_long_documents(const AttentionShape& shape, const Tensor& memory,
                                     Stream& stream);

}  // namespace polymoe::cuda
