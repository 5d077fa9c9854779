// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/matmul/row_products_backends.h"

namespace polymoe::detail {

/// Arguments of one call.
struct FeedForwardStep {
  const Activation& activation;
  const FeedForwardWeights& weights;
  const RowInput& input;
  const ExpertChoice* choice;  // null: dense
  const Tensor& residual;
  Tensor y;
};

/// Scratch of one call, allocated before dispatch so that the memory plan counts it. `slots` is 1,
/// or the choice's top_k.
struct FeedForwardStepScratch {
  NormedRow normed;
  RouterShape shape;    // of a choice
  RouterState routing;  // likewise; on CUDA its expert_ids and weights alone
  Tensor pre;           // [slots, factor * ffn]
  Tensor x, results;    // CPU: [slots, hidden], in the order of the experts; dense: results alone
  Tensor row_weights;   // CPU: [slots], likewise
  // CUDA, where activated rows are not formed where they are read:
  Tensor activated;     // [slots, ffn]
  Tensor coefficients;  // [slots, coefficient_count]; undefined where all experts share theirs
};

void feed_forward_step(CpuBackend, const FeedForwardStep& call, FeedForwardStepScratch& parts,
                       Arena& scratch, Stream& stream);

void feed_forward_step(CudaBackend, const FeedForwardStep& call, FeedForwardStepScratch& parts,
                       Arena& scratch, Stream& stream);

}  // namespace polymoe::detail
