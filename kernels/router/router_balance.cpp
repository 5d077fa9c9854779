// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router_balance.h"

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/router/router_balance_backends.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void router_losses(const RouterLossInputs& inputs, Tensor losses, Tensor balance_gradient,
                   Stream& stream) {
  const char* operation = "router_losses";
  check_real(operation, "balance_gradient", balance_gradient, 2);
  check_full_precision(operation, "balance_gradient", balance_gradient);
  check_real(operation, "log_sum_exp", inputs.log_sum_exp, 1);
  const Shape per_segment = balance_gradient.shape();
  const DType dtype = balance_gradient.dtype();
  check_tensors(operation, stream.device(),
                {{"counts", inputs.counts, per_segment, DType::i64},
                 {"probability_sums", inputs.probability_sums, per_segment, DType::f64},
                 {"log_sum_exp", inputs.log_sum_exp, inputs.log_sum_exp.shape(), dtype},
                 {"losses", losses, {2}, DType::f64},
                 {"balance_gradient", balance_gradient, per_segment, dtype}});
  dispatch(stream.device(), [&](auto backend) {
    detail::router_losses(backend, inputs, losses, balance_gradient, stream);
  });
}

void count_slots(const Tensor& segment_counts, const Tensor& kept_counts, Tensor totals,
                 Stream& stream) {
  if (!segment_counts.defined() || segment_counts.shape().rank() != 2) {
    throw InvalidArgument("count_slots: segment_counts has shape " +
                          to_string(segment_counts.shape()) + ", expected [segments, experts]");
  }
  const std::int64_t experts = segment_counts.dim(1);
  check_tensors("count_slots", stream.device(),
                {{"segment_counts", segment_counts, segment_counts.shape(), DType::i64},
                 {"kept_counts", kept_counts, {experts}, DType::i64},
                 {"totals", totals, {experts + 1}, DType::i64}});
  dispatch(stream.device(), [&](auto backend) {
    detail::count_slots(backend, segment_counts, kept_counts, totals, stream);
  });
}

void move_router_bias(std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream& stream) {
  check_tensors("move_router_bias", stream.device(),
                {{"bias", bias, {static_cast<std::int64_t>(counts.size())}, DType::f32}});
  dispatch(stream.device(),
           [&](auto backend) { detail::move_router_bias(backend, counts, rate, bias, stream); });
}

}  // namespace polymoe
