// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The parameters of a group of experts, or of one dense feed-forward (experts = 1).
struct FeedForwardWeights {
  Tensor up;            // [experts, factor * ffn, hidden]  swiglu: gate rows, then up rows
  Tensor down;          // [experts, hidden, ffn]
  Tensor coefficients;  // [1 or experts, coefficient_count]; undefined where there are none
};

/// Rows contiguous per expert: expert e owns [offsets[e], offsets[e + 1]); any may be empty.
using ExpertOffsets = std::vector<std::int64_t>;

/// Rows of other ranks, which are on their way when a call begins: of each expert the last ones.
/// What can be done without them is done before they are waited for, and what they are waited for
/// elsewhere before the rest.
struct LateRows {
  std::vector<std::int64_t> early;  // rows of each expert that are there, in front of the late ones
  std::function<void()> arrive;     // brings the late rows of x, or of d_y; called once
  std::function<void()>
      leave;  // their y, or their d_x and d_row_weights, are complete; called once
};

/// For each row r of expert e:
///   pre[r] = up_e x[r];  y[r] = down_e (row_weight[r] * activation(pre[r])).
/// The grouped, fused expert feed-forward: products and activation run over row tiles that stay in
/// cache; only the pre-activations are kept.
///
/// x, y        [rows, hidden]
/// offsets     experts + 1 ascending values on the host, the last equal to rows
/// row_weights [rows], undefined = 1: the router's weight of the (token, expert) pair
/// pre         [rows, factor * ffn]  kept for the backward pass
/// late        rows that are still to come; null = none
///
/// On the CPU f32 or f64, all of one dtype. On CUDA f32 or bf16; beside bf16 the coefficients,
/// row_weights and their gradients are f32, and the gradients of up and down bf16 or f32. There the
/// activated rows of all experts are scratch for as long as the call runs.
/// Asynchronous on `stream`. rows = 0 is allowed.
/// Throws InvalidArgument on a shape, dtype or device mismatch.
void feed_forward_forward(const Activation& activation, const FeedForwardWeights& weights,
                          const Tensor& x, const ExpertOffsets& offsets, const Tensor& row_weights,
                          Tensor pre, Tensor y, Arena& scratch, Stream& stream,
                          const LateRows* late = nullptr);

/// The pre-activations alone, pre[r] = up_e x[r], in the bits of feed_forward_forward: for a
/// backward pass whose forward pass did not keep them.
///
/// x, offsets, pre as there; of the weights only `up` is read.
void feed_forward_pre_activations(const Activation& activation, const FeedForwardWeights& weights,
                                  const Tensor& x, const ExpertOffsets& offsets, Tensor pre,
                                  Stream& stream);

/// Gradients of feed_forward_forward. Overwrites d_x and d_row_weights; adds to `gradients`.
/// `pre` is used as scratch: its contents are lost.
///
/// d_y, d_x      [rows, hidden]  d_x may not alias d_y or x
/// d_row_weights [rows]; undefined where row_weights is
///
/// d_row_weight[r] = <down_e^T d_y[r], activation(pre[r])>: the outputs y need not be kept for it.
/// Source of that identity's use: SonicMoE, arXiv:2512.14080.
void feed_forward_backward(const Activation& activation, const FeedForwardWeights& weights,
                           const Tensor& d_y, const Tensor& x, const ExpertOffsets& offsets,
                           const Tensor& row_weights, Tensor pre, Tensor d_x, Tensor d_row_weights,
                           FeedForwardWeights& gradients, Arena& scratch, Stream& stream,
                           const LateRows* late = nullptr);

}  // namespace polymoe
