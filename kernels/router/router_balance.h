// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace polymoe {

/// What the loss takes from the routing of some tokens, and by which factors.
struct RouterLossInputs {
  Tensor counts;            // [segments, experts] i64: slots that f is taken from
  Tensor probability_sums;  // [segments, experts] f64
  Tensor log_sum_exp;       // [tokens] f32 or f64
  std::int64_t top_k = 1;
  double balance_scale = 0.0;  // factor of each segment's balance loss
  double z_scale = 0.0;        // factor of each token's z loss
};

/// losses[0] += balance_scale * sum over segments of experts * sum_e f_e P_e
/// losses[1] += z_scale * sum over tokens of log_sum_exp^2
/// with f_e = counts_e / sum(counts) and P_e = probability_sums_e / (sum(counts) / top_k), both per
/// segment. `counts` may cover more tokens than the probabilities (those of other ranks too): the
/// loss is then these tokens' share. A segment without slots adds nothing.
///
/// losses           [2] f64
/// balance_gradient [segments, experts] of log_sum_exp's dtype, overwritten by the derivative by
///                  probability_sums, with f taken as constant
///
/// Asynchronous on `stream`; fixed summation order. Throws InvalidArgument on a mismatch.
/// Source: OLMoE, arXiv:2409.02060, equations 2 to 4.
void router_losses(const RouterLossInputs& inputs, Tensor losses, Tensor balance_gradient,
                   Stream& stream);

/// totals[e] += routed slots of expert e;  totals[experts] += slots routed but not kept.
///
/// segment_counts [segments, experts] i64 routed; kept_counts [experts] i64; totals [experts + 1]
/// i64. Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void count_slots(const Tensor& segment_counts, const Tensor& kept_counts, Tensor totals,
                 Stream& stream);

/// bias_e += rate * sign(mean(counts) - counts_e).
///
/// counts: one per expert, on the host; bias [experts] f32. Asynchronous on `stream`.
/// Throws InvalidArgument on a mismatch. Source: arXiv:2408.15664.
void move_router_bias(std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream& stream);

}  // namespace polymoe
