// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/feed_forward/feed_forward_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

struct Extents {
  std::int64_t rows, experts, hidden, ffn, pre_width;
};

Extents check(const char* operation, const Activation& activation,
              const FeedForwardWeights& weights, const Tensor& x, const ExpertOffsets& offsets,
              const Tensor& row_weights, const Tensor& pre, Device device) {
  check_activation(operation, activation);
  check_real(operation, "x", x, 2);
  if (!weights.down.defined() || weights.down.shape().rank() != 3) {
    throw InvalidArgument(std::string(operation) + ": x has shape " + to_string(x.shape()) +
                          " and weights.down " + to_string(weights.down.shape()) +
                          ", expected [rows, hidden] and [experts, hidden, ffn]");
  }
  const Extents extents{.rows = x.dim(0),
                        .experts = weights.down.dim(0),
                        .hidden = x.dim(1),
                        .ffn = weights.down.dim(2),
                        .pre_width = pre_activation_factor(activation.kind) * weights.down.dim(2)};
  const auto& [rows, experts, hidden, ffn, pre_width] = extents;
  check_offsets(operation, offsets, rows);
  if (static_cast<std::int64_t>(offsets.size()) != experts + 1) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(offsets.size()) +
                          " offsets for " + std::to_string(experts) + " experts, expected " +
                          std::to_string(experts + 1));
  }
  check_coefficients(operation, "weights.coefficients", activation, weights.coefficients, experts,
                     accumulation_dtype(x.dtype()), device);
  check_tensors(operation, device,
                {{"x", x, Shape{rows, hidden}, x.dtype()},
                 {"weights.up", weights.up, Shape{experts, pre_width, hidden}, x.dtype()},
                 {"weights.down", weights.down, Shape{experts, hidden, ffn}, x.dtype()},
                 {"pre", pre, Shape{rows, pre_width}, x.dtype()}});
  if (row_weights.defined()) {
    check_tensors(operation, device,
                  {{"row_weights", row_weights, Shape{rows}, accumulation_dtype(x.dtype())}});
  }
  return extents;
}

void check_late(const char* operation, const ExpertOffsets& offsets, const LateRows* late) {
  if (late == nullptr) return;
  if (late->early.size() + 1 != offsets.size()) {
    throw InvalidArgument(std::string(operation) + ": early rows of " +
                          std::to_string(late->early.size()) + " experts, expected " +
                          std::to_string(offsets.size() - 1));
  }
  for (std::size_t e = 0; e < late->early.size(); ++e) {
    const std::int64_t rows = offsets[e + 1] - offsets[e];
    if (late->early[e] >= 0 && late->early[e] <= rows) continue;
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(late->early[e]) +
                          " early rows of expert " + std::to_string(e) + ", expected 0 to " +
                          std::to_string(rows));
  }
}

/// On the meta device nothing comes before or after.
void pass(const LateRows* late) {
  if (late == nullptr) return;
  late->arrive();
  late->leave();
}

}  // namespace

void feed_forward_forward(const Activation& activation, const FeedForwardWeights& weights,
                          const Tensor& x, const ExpertOffsets& offsets, const Tensor& row_weights,
                          Tensor pre, Tensor y, Arena& scratch, Stream& stream,
                          const LateRows* late) {
  constexpr const char* operation = "feed_forward_forward";
  const Extents extents =
      check(operation, activation, weights, x, offsets, row_weights, pre, stream.device());
  check_late(operation, offsets, late);
  check_tensors(operation, stream.device(),
                {{"y", y, Shape{extents.rows, extents.hidden}, x.dtype()}});
  const Arena::Scope scope(scratch);
  const bool on_gpu = stream.device().backend() == DeviceType::cuda;
  const Shape activated = on_gpu ? Shape{extents.rows, extents.ffn}
                                 : Shape{detail::activated_tile_rows(extents.rows),
                                         detail::activated_stride(extents.ffn)};
  const detail::FeedForwardScratch parts{.activated = scratch.allocate(activated, x.dtype()),
                                         .partial_sums = {}};
  dispatch(stream.device(), [&](auto backend) {
    detail::feed_forward_forward(backend, activation, weights, x, offsets, row_weights, pre, y,
                                 parts, stream, late);
  });
  if (stream.device().type == DeviceType::meta) pass(late);
}

void feed_forward_pre_activations(const Activation& activation, const FeedForwardWeights& weights,
                                  const Tensor& x, const ExpertOffsets& offsets, Tensor pre,
                                  Stream& stream) {
  check("feed_forward_pre_activations", activation, weights, x, offsets, Tensor(), pre,
        stream.device());
  dispatch(stream.device(), [&](auto backend) {
    detail::feed_forward_pre_activations(backend, weights, x, offsets, pre, stream);
  });
}

void feed_forward_backward(const Activation& activation, const FeedForwardWeights& weights,
                           const Tensor& d_y, const Tensor& x, const ExpertOffsets& offsets,
                           const Tensor& row_weights, Tensor pre, Tensor d_x, Tensor d_row_weights,
                           FeedForwardWeights& gradients, Arena& scratch, Stream& stream,
                           const LateRows* late) {
  constexpr const char* operation = "feed_forward_backward";
  const Extents extents =
      check(operation, activation, weights, x, offsets, row_weights, pre, stream.device());
  check_late(operation, offsets, late);
  const DType accumulated = accumulation_dtype(x.dtype());
  const bool wide = gradients.up.defined() && gradients.up.dtype() == accumulated;
  const DType gradient_dtype = wide ? accumulated : x.dtype();
  const Shape outer{extents.rows, extents.hidden};
  check_tensors(operation, stream.device(),
                {{"d_y", d_y, outer, x.dtype()},
                 {"d_x", d_x, outer, x.dtype()},
                 {"gradients.up", gradients.up, weights.up.shape(), gradient_dtype},
                 {"gradients.down", gradients.down, weights.down.shape(), gradient_dtype}});
  if (coefficient_count(activation) > 0) {
    check_tensors(operation, stream.device(),
                  {{"gradients.coefficients", gradients.coefficients, weights.coefficients.shape(),
                    accumulated}});
  }
  if (row_weights.defined()) {
    check_tensors(operation, stream.device(),
                  {{"d_row_weights", d_row_weights, Shape{extents.rows}, accumulated}});
  }
  const Arena::Scope scope(scratch);
  const bool on_gpu = stream.device().backend() == DeviceType::cuda;
  const std::int64_t stride = on_gpu ? extents.ffn : detail::activated_stride(extents.ffn);
  const detail::FeedForwardScratch parts{
      .activated = scratch.allocate({extents.rows, stride}, x.dtype()),
      .partial_sums = scratch.allocate(
          detail::activation_partial_sums(activation, extents.rows, extents.experts), DType::f64)};
  dispatch(stream.device(), [&](auto backend) {
    detail::feed_forward_backward(backend, activation, weights, d_y, x, offsets, row_weights, pre,
                                  d_x, d_row_weights, gradients, parts, stream, late);
  });
  if (stream.device().type == DeviceType::meta) pass(late);
}

}  // namespace polymoe
