// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/chosen_experts.h"

#include <cstdint>
#include <string>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/feed_forward/chosen_experts_backends.h"
#include "kernels/feed_forward/feed_forward.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void chosen_experts_forward(const Activation& activation, const FeedForwardWeights& weights,
                            const Tensor& x, const Tensor& expert_ids, const Tensor& row_weights,
                            Write write, Tensor y, Arena& scratch, Stream& stream) {
  constexpr const char* operation = "chosen_experts_forward";
  check_activation(operation, activation);
  check_real(operation, "x", x, 2);
  if (!weights.down.defined() || weights.down.shape().rank() != 3 || !expert_ids.defined() ||
      expert_ids.shape().rank() != 2) {
    throw InvalidArgument(std::string(operation) + ": weights.down has shape " +
                          to_string(weights.down.shape()) + " and expert_ids " +
                          to_string(expert_ids.shape()) +
                          ", expected [experts, hidden, ffn] and [1, top_k]");
  }
  const DType dtype = x.dtype(), wide = accumulation_dtype(dtype);
  const std::int64_t experts = weights.down.dim(0), hidden = x.dim(1), ffn = weights.down.dim(2);
  const std::int64_t pre_width = pre_activation_factor(activation.kind) * ffn;
  const std::int64_t top_k = expert_ids.dim(1);
  check_coefficients(operation, "weights.coefficients", activation, weights.coefficients, experts,
                     wide, stream.device());
  check_tensors(operation, stream.device(),
                {{"x", x, {1, hidden}, dtype},
                 {"expert_ids", expert_ids, {1, top_k}, DType::i32},
                 {"row_weights", row_weights, {1, top_k}, wide},
                 {"weights.up", weights.up, {experts, pre_width, hidden}, dtype},
                 {"weights.down", weights.down, {experts, hidden, ffn}, dtype},
                 {"y", y, {1, hidden}, dtype}});
  const Arena::Scope scope(scratch);
  detail::ChosenExpertsScratch parts;
  parts.pre = scratch.allocate({top_k, pre_width}, dtype);
  if (stream.device().backend() == DeviceType::cuda) {
    parts.activated = scratch.allocate({top_k, ffn}, dtype);
    if (weights.coefficients.defined() && weights.coefficients.dim(0) > 1)
      parts.coefficients = scratch.allocate({top_k, weights.coefficients.dim(1)}, wide);
  } else {
    parts.x = scratch.allocate({top_k, hidden}, dtype);
    parts.results = scratch.allocate({top_k, hidden}, dtype);
    parts.row_weights = scratch.allocate({top_k}, wide);
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::chosen_experts_forward(backend,
                                   {activation, weights, x, expert_ids, row_weights, write, y},
                                   parts, scratch, stream);
  });
}

}  // namespace polymoe
