// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/router/router_cpu.h"

namespace polymoe::detail {

void router_forward(CudaBackend, const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, const RouterPartials& partials, Stream& stream);
void router_backward(CudaBackend, const RouterShape& shape, const Tensor& logits,
                     const RouterState& state, const Tensor& d_weights,
                     const Tensor& balance_gradient, double z_scale, Tensor d_logits,
                     Stream& stream);

}  // namespace polymoe::detail
