// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/feed_forward/feed_forward.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y (+)= sum over j of down_e (row_weights[j] * activation(up_e x)), e = expert_ids[j]: what the
/// experts of one token make of it, without a backward pass. Each chosen weight is read once, and
/// which are chosen need not be known to the host: nothing waits.
///
/// x, y        [1, hidden]  y may not alias x
/// expert_ids  [1, top_k] i32, all different, in [0, experts)
/// row_weights [1, top_k]
///
/// weights, activation and dtypes as in feed_forward_forward(); its operation for the token's rows,
/// then their sum in the order of the slots. On CUDA the sum over the experts is not rounded before
/// its end. Asynchronous on `stream`.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
void chosen_experts_forward(const Activation& activation, const FeedForwardWeights& weights,
                            const Tensor& x, const Tensor& expert_ids, const Tensor& row_weights,
                            Write write, Tensor y, Arena& scratch, Stream& stream);

}  // namespace polymoe
