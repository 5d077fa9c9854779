// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/chosen_experts_backends.h"

#include <cstdint>
#include <vector>

#include "kernels/activation/activation_backends.h"
#include "kernels/embedding/embedding.h"
#include "kernels/matmul/row_products_cuda.h"

namespace polymoe::detail {

void chosen_experts_forward(CudaBackend, const ChosenExperts& call,
                            const ChosenExpertsScratch& parts, Arena&, Stream& stream) {
  const FeedForwardWeights& weights = call.weights;
  const std::int64_t top_k = call.expert_ids.dim(1);
  const auto matrices = [&](const Tensor& of_experts) {
    return cuda::ChosenMatrices{.weights = of_experts.raw(),
                                .chosen = call.expert_ids.data<std::int32_t>(),
                                .count = top_k,
                                .outputs = of_experts.dim(1),
                                .k = of_experts.dim(2),
                                .dtype = of_experts.dtype()};
  };
  cuda::multiply_by_chosen(matrices(weights.up), call.x.raw(), parts.pre.raw(), stream);
  Tensor coefficients = weights.coefficients;
  std::vector<std::int64_t> groups = {0, top_k};
  if (parts.coefficients.defined()) {
    coefficients = parts.coefficients;
    embedding_forward(call.expert_ids.view({top_k}), weights.coefficients, coefficients, stream);
    groups.resize(static_cast<std::size_t>(top_k) + 1);
    for (std::int64_t row = 0; row <= top_k; ++row) groups[static_cast<std::size_t>(row)] = row;
  }
  activation_forward(CudaBackend{}, call.activation, parts.pre, coefficients, groups,
                     call.row_weights.view({top_k}), parts.activated, stream);
  cuda::add_chosen_products(matrices(weights.down), parts.activated.raw(),
                            call.write == Write::accumulate, call.y.raw(), stream);
}

}  // namespace polymoe::detail
