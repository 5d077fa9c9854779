// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/router/router_balance.h"

namespace polymoe::detail {

void router_losses(CpuBackend, const RouterLossInputs& inputs, Tensor losses,
                   Tensor balance_gradient, Stream& stream);
void count_slots(CpuBackend, const Tensor& segment_counts, const Tensor& kept_counts, Tensor totals,
                 Stream& stream);
void move_router_bias(CpuBackend, std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream& stream);

void router_losses(CudaBackend, const RouterLossInputs& inputs, Tensor losses,
                   Tensor balance_gradient, Stream& stream);
void count_slots(CudaBackend, const Tensor& segment_counts, const Tensor& kept_counts,
                 Tensor totals, Stream& stream);
void move_router_bias(CudaBackend, std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream& stream);

}  // namespace polymoe::detail
