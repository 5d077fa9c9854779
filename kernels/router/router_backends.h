// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/router/router.h"

namespace polymoe::detail {

/// Statistics of each chunk of tokens; a segment has router_chunks(shape) of them.
struct RouterPartials {
  Tensor counts;            // [segments * chunks, experts] i64
  Tensor probability_sums;  // [segments * chunks, experts] f64
};

/// Chunks per segment: fixed sizes, so that sums do not depend on the number of threads.
std::int64_t router_chunks(const RouterShape& shape);

void router_forward(CpuBackend, const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, const RouterPartials& partials, Stream& stream);
void router_backward(CpuBackend, const RouterShape& shape, const Tensor& logits,
                     const RouterState& state, const Tensor& d_weights,
                     const Tensor& balance_gradient, double z_scale, Tensor d_logits,
                     Stream& stream);

void router_forward(CudaBackend, const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, const RouterPartials& partials, Stream& stream);
void router_backward(CudaBackend, const RouterShape& shape, const Tensor& logits,
                     const RouterState& state, const Tensor& d_weights,
                     const Tensor& balance_gradient, double z_scale, Tensor d_logits,
                     Stream& stream);

}  // namespace polymoe::detail
