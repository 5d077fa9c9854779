// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/adamw/adamw.h"
#include "kernels/backend.h"

namespace polymoe::detail {

void adamw(CpuBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter,
           const OptimizerState& state, Tensor low, Stream& stream);

void adamw(CudaBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter,
           const OptimizerState& state, Tensor low, Stream& stream);

}  // namespace polymoe::detail
