// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/split_float/split_float.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

/// x, high, low [elements], not empty; low may be undefined
void split_floats(CpuBackend, const Tensor& x, Tensor high, Tensor low, Stream& stream);

void split_floats(CudaBackend, const Tensor& x, Tensor high, Tensor low, Stream& stream);

}  // namespace polymoe::detail
