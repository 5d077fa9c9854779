// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/documents.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Sizes of one attention call. Query i of a sequence sees the keys
/// j <= key_length - query_length + i; equal lengths give the causal triangle, a query_length of
/// one gives a decoding step over a cache of key_length positions. Where there are documents, of
/// equal lengths only, a query sees the keys of its own document alone.
struct AttentionShape {
  std::int64_t batch = 0;
  std::int64_t query_length = 0;
  std::int64_t key_length = 0;  // at least query_length
  std::int64_t heads = 0;       // a multiple of kv_heads: grouped queries
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  Tensor document_starts = {};            // [batch * query_length] i32, see kernels/documents.h
  DocumentLengths document_lengths = {};  // of those
  bool unprepared = false;  // forward alone: nothing is prepared for the shape, which comes rarely
};

/// out = softmax(q k^T / sqrt(head_dim), causal) v per head, tiled: memory linear in the lengths.
///
/// q, out         [batch * query_length, heads, head_dim]
/// k, v           [batch * key_length, kv_heads, head_dim]
/// log_sum_exp    [batch, heads, query_length]  of the scaled scores, kept for the backward pass
///
/// All of one dtype: f32, f64 on the CPU, bf16 on CUDA, where log_sum_exp is f32 beside it;
/// head_dim at most 256 on CUDA. Asynchronous on `stream`; tiles and workspaces live in `scratch`.
/// On CUDA, bf16 with a head_dim that is a multiple of 8 up to 128 and more than one query runs on
/// cuDNN, which blocks at the first call of a shape; where the shape is unprepared, on kernels of
/// our own for tensor cores, which leave out tiles of keys that no query of a tile sees. Documents
/// run on these, but for long ones, which cuDNN takes where the device and its version let it
/// (attention_cuda_long_documents.h). Other dtypes and head_dims run on kernels in f32 arithmetic,
/// which leave tiles out too. The CPU takes document by document, each as a sequence of
/// its own. Rows without a document get zeros.
/// Throws InvalidArgument on a shape, dtype or device mismatch; on the CPU where document_starts do
/// not ascend from the first row of a document to the next; DeviceError where cuDNN refuses.
/// Source: Dao 2023, arXiv:2307.08691.
void attention_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Arena& scratch,
                       Stream& stream);

/// Gradients of attention_forward; recomputes the probabilities tile by tile. Overwrites d_q, d_k
/// and d_v; fixed summation order. cuDNN's deterministic backward pass keeps bf16 gradients of the
/// scores: 2 * query_length * key_length bytes per head, for as many heads at a time as make 1 GiB.
///
/// d_out, d_q [batch * query_length, heads, head_dim]; d_k, d_v [batch * key_length, kv_heads,
/// head_dim]
void attention_backward(const AttentionShape& shape, const Tensor& d_out, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& log_sum_exp, Tensor d_q, Tensor d_k, Tensor d_v,
                        Arena& scratch, Stream& stream);

}  // namespace polymoe
