// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/convert/convert.h"

namespace polymoe::detail {

/// x, y [elements], not empty
void convert(CpuBackend, const Tensor& x, Tensor y, Stream& stream);

/// x, y [elements], not empty
void convert(CudaBackend, const Tensor& x, Tensor y, Stream& stream);

}  // namespace polymoe::detail
