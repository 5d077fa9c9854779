// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/dispatch.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Sizes of one attention call. Query i of a sequence sees the keys
/// j <= key_length - query_length + i; equal lengths give the causal triangle, a query_length of
/// one gives a decoding step over a cache of key_length positions.
struct AttentionShape {
  std::int64_t batch = 0;
  std::int64_t query_length = 0;
  std::int64_t key_length = 0;  // at least query_length
  std::int64_t heads = 0;       // a multiple of kv_heads: grouped queries
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
};

/// out = softmax(q k^T / sqrt(head_dim), causal) v per head, tiled: memory linear in the lengths.
///
/// q, out         [batch * query_length, heads, head_dim]
/// k, v           [batch * key_length, kv_heads, head_dim]
/// log_sum_exp    [batch, heads, query_length]  of the scaled scores, kept for the backward pass
///
/// f32 or f64, all of one dtype. Asynchronous on `stream`; tiles live in `scratch`.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
/// Source: Dao 2023, arXiv:2307.08691.
void attention_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Arena& scratch,
                       Stream& stream);

/// Gradients of attention_forward; recomputes the probabilities tile by tile. Overwrites d_q, d_k
/// and d_v; fixed summation order.
///
/// d_out, d_q [batch * query_length, heads, head_dim]; d_k, d_v [batch * key_length, kv_heads,
/// head_dim]
void attention_backward(const AttentionShape& shape, const Tensor& d_out, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& log_sum_exp, Tensor d_q, Tensor d_k, Tensor d_v,
                        Arena& scratch, Stream& stream);

}  // namespace polymoe
