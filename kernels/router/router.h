// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/documents.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

enum class RouterScores : std::uint8_t { softmax, sigmoid };

/// How a token's experts are chosen and weighted: the part of a model's settings that the operation
/// knows, handed to it whole.
struct RouterRule {
  RouterScores scores = RouterScores::softmax;
  bool normalize = false;  // divide a token's top-k weights by their sum
};

struct RouterShape {
  std::int64_t tokens = 0;
  std::int64_t experts = 0;
  std::int64_t top_k = 0;           // in [1, experts]
  std::int64_t segments = 0;        // of the balance statistics
  std::int64_t segment_tokens = 0;  // tokens of each; segments * segment_tokens = tokens
  RouterRule rule = {};
  Tensor document_starts = {};  // [tokens] i32, see kernels/documents.h
};

/// What routing decides and keeps. Real-valued tensors have the logits' dtype (f32 or f64).
struct RouterState {
  Tensor scores;                    // [tokens, experts]  softmax or sigmoid of the logits
  Tensor log_sum_exp;               // [tokens]           of the logits
  Tensor expert_ids;                // [tokens, top_k] i32, descending score + bias (ties: lower id)
  Tensor weights;                   // [tokens, top_k]
  Tensor segment_counts;            // [segments, experts] i64: routed slots per expert
  Tensor segment_probability_sums;  // [segments, experts] f64: sum of probabilities per expert
};

/// The tensors of a RouterState, in `arena`.
RouterState allocate_router_state(const RouterShape& shape, DType dtype, Arena& arena);

/// scores = softmax(logits) or sigmoid(logits); expert_ids = top-k of scores + bias; weights = the
/// chosen scores (without bias), divided by their sum where `normalize`. The probabilities of the
/// balance statistics are the scores, with sigmoid divided by their sum over the experts. Rows
/// without a document go to no expert and into no statistic: their expert_ids are -1, and scores,
/// weights and log_sum_exp 0.
///
/// logits [tokens, experts] f32 or f64; bias [experts] f32, undefined = 0
///
/// A row with NaN still gets top_k different experts. Asynchronous on `stream`; partial sums of the
/// statistics live in `scratch` and are added in token order. Throws InvalidArgument on a mismatch.
/// Source: OLMoE, arXiv:2409.02060, section 2; bias: arXiv:2408.15664.
void router_forward(const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, Arena& scratch, Stream& stream);

/// d_logits of  <d_weights, weights> + sum over tokens and experts of
/// balance_gradient[segment, e] * probability[token, e] + z_scale * sum over tokens of lse^2;
/// 0 of rows without a document.
///
/// logits           [tokens, experts]  as given to forward; read only by sigmoid scores with
///                                     z_scale != 0, else it may be undefined
/// d_weights        [tokens, top_k]
/// balance_gradient [segments, experts] of the logits' dtype; undefined = 0
/// d_logits         [tokens, experts], overwritten; may alias logits
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void router_backward(const RouterShape& shape, const Tensor& logits, const RouterState& state,
                     const Tensor& d_weights, const Tensor& balance_gradient, double z_scale,
                     Tensor d_logits, Stream& stream);

}  // namespace polymoe
