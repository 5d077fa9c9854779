// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward_step.h"

#include <cstdint>
#include <string>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step_backends.h"
#include "kernels/matmul/row_products_backends.h"
#include "kernels/router/router.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

RouterShape shape_of(const ExpertChoice& choice) {
  return {.tokens = 1,
          .experts = choice.logits.dim(1),
          .top_k = choice.top_k,
          .segments = 1,
          .segment_tokens = 1,
          .rule = choice.rule};
}

void check_choice(const char* operation, const ExpertChoice& choice, std::int64_t experts,
                  DType wide, Device device) {
  check_tensors(operation, device, {{"choice.logits", choice.logits, {1, experts}, wide}});
  if (choice.top_k < 1 || choice.top_k > experts) {
    throw InvalidArgument(std::string(operation) + ": top_k is " + std::to_string(choice.top_k) +
                          ", expected 1 to " + std::to_string(experts));
  }
  if (choice.bias.defined())
    check_tensors(operation, device, {{"choice.bias", choice.bias, {experts}, DType::f32}});
}

void run(const char* operation, const detail::FeedForwardStep& call, Arena& scratch,
         Stream& stream) {
  const Activation& activation = call.activation;
  const FeedForwardWeights& weights = call.weights;
  check_activation(operation, activation);
  check_row_input(operation, call.input, stream.device());
  if (!weights.down.defined() || weights.down.shape().rank() != 3) {
    throw InvalidArgument(std::string(operation) + ": weights.down has shape " +
                          to_string(weights.down.shape()) + ", expected [experts, hidden, ffn]");
  }
  const DType dtype = call.input.x.dtype(), wide = accumulation_dtype(dtype);
  const std::int64_t experts = call.choice != nullptr ? weights.down.dim(0) : 1;
  const std::int64_t hidden = call.input.x.dim(1), ffn = weights.down.dim(2);
  const std::int64_t pre_width = pre_activation_factor(activation.kind) * ffn;
  check_coefficients(operation, "weights.coefficients", activation, weights.coefficients, experts,
                     wide, stream.device());
  check_tensors(operation, stream.device(),
                {{"weights.up", weights.up, {experts, pre_width, hidden}, dtype},
                 {"weights.down", weights.down, {experts, hidden, ffn}, dtype},
                 {"residual", call.residual, {1, hidden}, dtype},
                 {"y", call.y, {1, hidden}, dtype}});
  const Arena::Scope scope(scratch);
  detail::FeedForwardStepScratch parts;
  std::int64_t slots = 1;
  if (call.choice != nullptr) {
    check_choice(operation, *call.choice, experts, wide, stream.device());
    slots = call.choice->top_k;
    parts.shape = shape_of(*call.choice);
    parts.routing = allocate_router_state(parts.shape, wide, scratch);
  }
  parts.normed = allocate_normed_row(call.input, scratch);
  parts.pre = scratch.allocate({slots, pre_width}, dtype);
  if (stream.device().backend() == DeviceType::cuda) {
    parts.activated = scratch.allocate({slots, ffn}, dtype);
    if (weights.coefficients.defined() && weights.coefficients.dim(0) > 1)
      parts.coefficients = scratch.allocate({slots, weights.coefficients.dim(1)}, wide);
  } else {
    parts.results = scratch.allocate({slots, hidden}, dtype);
    if (call.choice != nullptr) {
      parts.x = scratch.allocate({slots, hidden}, dtype);
      parts.row_weights = scratch.allocate({slots}, wide);
    }
  }
  dispatch(stream.device(),
           [&](auto backend) { detail::feed_forward_step(backend, call, parts, scratch, stream); });
}

}  // namespace

void feed_forward_step(const Activation& activation, const FeedForwardWeights& weights,
                       const RowInput& input, const Tensor& residual, Tensor y, Arena& scratch,
                       Stream& stream) {
  run("feed_forward_step", {activation, weights, input, nullptr, residual, y}, scratch, stream);
}

void chosen_experts_step(const Activation& activation, const FeedForwardWeights& weights,
                         const RowInput& input, const ExpertChoice& choice, const Tensor& residual,
                         Tensor y, Arena& scratch, Stream& stream) {
  run("chosen_experts_step", {activation, weights, input, &choice, residual, y}, scratch, stream);
}

}  // namespace polymoe
