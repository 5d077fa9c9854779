// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/feed_forward/chosen_experts.h"

namespace polymoe::detail {

/// Arguments of one call.
struct ChosenExperts {
  const Activation& activation;
  const FeedForwardWeights& weights;
  const Tensor &x, &expert_ids, &row_weights;
  Write write;
  Tensor y;
};

/// Scratch of one call, allocated before dispatch so that the memory plan counts it.
struct ChosenExpertsScratch {
  Tensor pre;        // [top_k, factor * ffn]
  Tensor activated;  // CUDA: [top_k, ffn]
  // CUDA: [top_k, coefficient_count], of the chosen experts; undefined where all share theirs.
  Tensor coefficients;
  Tensor x, results;   // CPU: [top_k, hidden], in the order of the experts
  Tensor row_weights;  // CPU: [top_k], likewise
};

void chosen_experts_forward(CpuBackend, const ChosenExperts& call,
                            const ChosenExpertsScratch& parts, Arena& scratch, Stream& stream);

void chosen_experts_forward(CudaBackend, const ChosenExperts& call,
                            const ChosenExpertsScratch& parts, Arena& scratch, Stream& stream);

}  // namespace polymoe::detail
