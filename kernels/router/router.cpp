// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router.h"

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/documents.h"
#include "kernels/router/router_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

void check_shape(const char* operation, const RouterShape& shape) {
  const std::string where = operation;
  if (shape.experts < 1) {
    throw InvalidArgument(where + ": experts is " + std::to_string(shape.experts) +
                          ", expected at least 1");
  }
  if (shape.top_k < 1 || shape.top_k > shape.experts) {
    throw InvalidArgument(where + ": top_k is " + std::to_string(shape.top_k) + ", expected 1 to " +
                          std::to_string(shape.experts));
  }
  if (shape.segments < 0 || shape.segment_tokens < 0 ||
      shape.segments * shape.segment_tokens != shape.tokens) {
    throw InvalidArgument(where + ": " + std::to_string(shape.segments) + " segments of " +
                          std::to_string(shape.segment_tokens) + " tokens do not make " +
                          std::to_string(shape.tokens) + " tokens");
  }
}

void check_state(const char* operation, const RouterShape& shape, const RouterState& state,
                 DType dtype, Device device) {
  const Shape per_expert{shape.tokens, shape.experts}, per_slot{shape.tokens, shape.top_k};
  const Shape per_segment{shape.segments, shape.experts};
  check_tensors(
      operation, device,
      {{"scores", state.scores, per_expert, dtype},
       {"log_sum_exp", state.log_sum_exp, {shape.tokens}, dtype},
       {"expert_ids", state.expert_ids, per_slot, DType::i32},
       {"weights", state.weights, per_slot, dtype},
       {"segment_counts", state.segment_counts, per_segment, DType::i64},
       {"segment_probability_sums", state.segment_probability_sums, per_segment, DType::f64}});
}

}  // namespace

RouterState allocate_router_state(const RouterShape& shape, DType dtype, Arena& arena) {
  const Shape per_slot{shape.tokens, shape.top_k}, per_segment{shape.segments, shape.experts};
  RouterState state;
  state.scores = arena.allocate({shape.tokens, shape.experts}, dtype);
  state.log_sum_exp = arena.allocate({shape.tokens}, dtype);
  state.expert_ids = arena.allocate(per_slot, DType::i32);
  state.weights = arena.allocate(per_slot, dtype);
  state.segment_counts = arena.allocate(per_segment, DType::i64);
  state.segment_probability_sums = arena.allocate(per_segment, DType::f64);
  return state;
}

void router_forward(const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, Arena& scratch, Stream& stream) {
  const char* operation = "router_forward";
  check_shape(operation, shape);
  check_real(operation, "logits", logits, 2);
  check_full_precision(operation, "logits", logits);
  check_tensors(operation, stream.device(),
                {{"logits", logits, {shape.tokens, shape.experts}, logits.dtype()}});
  check_state(operation, shape, state, logits.dtype(), stream.device());
  check_documents(operation, shape.document_starts, shape.tokens, stream.device());
  if (bias.defined()) {
    check_tensors(operation, stream.device(), {{"bias", bias, {shape.experts}, DType::f32}});
  }
  const Arena::Scope scope(scratch);
  const std::int64_t chunks = detail::router_chunks(shape) * shape.segments;
  const Tensor counts = scratch.allocate({chunks, shape.experts}, DType::i64);
  const Tensor sums = scratch.allocate({chunks, shape.experts}, DType::f64);
  dispatch(stream.device(), [&](auto backend) {
    detail::router_forward(backend, shape, logits, bias, state, {counts, sums}, stream);
  });
}

void router_backward(const RouterShape& shape, const Tensor& logits, const RouterState& state,
                     const Tensor& d_weights, const Tensor& balance_gradient, double z_scale,
                     Tensor d_logits, Stream& stream) {
  const char* operation = "router_backward";
  check_shape(operation, shape);
  check_real(operation, "d_logits", d_logits, 2);
  check_full_precision(operation, "d_logits", d_logits);
  const Shape per_expert{shape.tokens, shape.experts};
  const DType dtype = d_logits.dtype();
  check_state(operation, shape, state, dtype, stream.device());
  check_tensors(operation, stream.device(),
                {{"d_weights", d_weights, {shape.tokens, shape.top_k}, dtype},
                 {"d_logits", d_logits, per_expert, dtype}});
  if (balance_gradient.defined()) {
    check_tensors(operation, stream.device(),
                  {{"balance_gradient", balance_gradient, {shape.segments, shape.experts}, dtype}});
  }
  if (shape.rule.scores == RouterScores::sigmoid && z_scale != 0.0) {
    check_tensors(operation, stream.device(), {{"logits", logits, per_expert, dtype}});
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::router_backward(backend, shape, logits, state, d_weights, balance_gradient, z_scale,
                            d_logits, stream);
  });
}

}  // namespace polymoe
