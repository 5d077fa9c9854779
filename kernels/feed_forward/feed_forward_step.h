// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/matmul/row_products.h"
#include "kernels/router/router.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// One token's feed-forward with what surrounds it in a block, without a backward pass:
///   y = residual + down activation(up row).
/// On CUDA two kernels, each of which forms what it reads itself: the norm of the row, the
/// activation.
///
/// input       the row, see row_products()
/// weights     as in feed_forward_forward(), of one expert
/// residual, y [1, hidden]  y may be residual, and alias nothing else
///
/// dtypes as in feed_forward_forward(). Asynchronous on `stream`.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
void feed_forward_step(const Activation& activation, const FeedForwardWeights& weights,
                       const RowInput& input, const Tensor& residual, Tensor y, Arena& scratch,
                       Stream& stream);

/// What a token's experts are chosen by, see router_forward().
struct ExpertChoice {
  Tensor logits;     // [1, experts] f32, or f64 beside f64
  Tensor bias = {};  // [experts] f32; undefined = 0
  std::int64_t top_k = 0;
  RouterRule rule = {};
};

/// The same of the experts that the router chooses for the token:
///   y = residual + sum over j of down_e (w_j activation(up_e row)),
/// e and w_j being the ids and weights of router_forward(choice.logits). Each chosen weight is read
/// once, and which are chosen need not be known to the host: nothing waits. On CUDA two kernels
/// again, the first of which makes the choice; the sum over the experts is rounded once.
void chosen_experts_step(const Activation& activation, const FeedForwardWeights& weights,
                         const RowInput& input, const ExpertChoice& choice, const Tensor& residual,
                         Tensor y, Arena& scratch, Stream& stream);

}  // namespace polymoe
