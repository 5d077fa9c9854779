// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward_step_cuda.h"

#include <cstdint>
#include <vector>

#include "kernels/activation/activation_backends.h"
#include "kernels/embedding/embedding.h"
#include "kernels/feed_forward/feed_forward_step_backends.h"
#include "kernels/matmul/row_products_backends.h"
#include "kernels/rms_norm/rms_norm.h"

namespace polymoe::detail {
namespace {

/// pre of all slots, and the choice.
void first_product(const FeedForwardStep& call, const FeedForwardStepScratch& parts,
                   Stream& stream) {
  const FeedForwardWeights& weights = call.weights;
  if (call.choice == nullptr) {
    const RowProduct product{weights.up.view({weights.up.dim(1), weights.up.dim(2)}), parts.pre};
    row_products(CudaBackend{}, call.input, {&product, 1}, parts.normed, stream);
    return;
  }
  const auto multiply = [&](const RowInput& input, bool always) {
    const cuda::ChosenUp up{
        input,    *call.choice, weights.up, parts.routing.expert_ids, parts.routing.weights,
        parts.pre};
    const bool can = always || cuda::norms_in_product(up);
    if (can) cuda::multiply_by_chosen(up, stream);
    return can;
  };
  const RowInput& input = call.input;
  if (multiply(input, !input.scale.defined())) return;
  rms_norm_forward(input.x, input.scale, input.epsilon, parts.normed.y, parts.normed.inv_rms,
                   stream);
  multiply({.x = parts.normed.y}, true);
}

/// The slots' activated rows, each with its expert's coefficients.
void activate(const FeedForwardStep& call, const FeedForwardStepScratch& parts,
              const Tensor& row_weights, Stream& stream) {
  const std::int64_t slots = parts.pre.dim(0);
  Tensor coefficients = call.weights.coefficients;
  std::vector<std::int64_t> groups = {0, slots};
  if (parts.coefficients.defined()) {
    coefficients = parts.coefficients;
    embedding_forward(parts.routing.expert_ids.view({slots}), call.weights.coefficients,
                      coefficients, stream);
    groups.resize(static_cast<std::size_t>(slots) + 1);
    for (std::int64_t row = 0; row <= slots; ++row) groups[static_cast<std::size_t>(row)] = row;
  }
  activation_forward(CudaBackend{}, call.activation, parts.pre, coefficients, groups, row_weights,
                     parts.activated, stream);
}

}  // namespace

void feed_forward_step(CudaBackend, const FeedForwardStep& call, FeedForwardStepScratch& parts,
                       Arena&, Stream& stream) {
  first_product(call, parts, stream);
  const bool chosen = call.choice != nullptr;
  const Tensor row_weights = chosen ? parts.routing.weights.view({parts.pre.dim(0)}) : Tensor();
  const cuda::ActivatedDown down{.activation = call.activation,
                                 .coefficients = call.weights.coefficients,
                                 .pre = parts.pre,
                                 .down = call.weights.down,
                                 .ids = chosen ? parts.routing.expert_ids : Tensor(),
                                 .row_weights = row_weights,
                                 .residual = call.residual,
                                 .y = call.y};
  if (cuda::activates_in_product(down)) {
    cuda::add_activated_products(down, stream);
    return;
  }
  activate(call, parts, row_weights, stream);
  cuda::add_products(down, parts.activated, stream);
}

}  // namespace polymoe::detail
