// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/rotary/rotary.h"

namespace polymoe::detail {

void rotary(CudaBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream& stream);

}  // namespace polymoe::detail
