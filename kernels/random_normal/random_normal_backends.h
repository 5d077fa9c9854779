// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/random_normal/random_normal.h"

namespace polymoe::detail {

void random_normal(CpuBackend, const RandomStream& random, const NormalDraw& draw, Tensor y,
                   Stream& stream);

void random_normal(CudaBackend, const RandomStream& random, const NormalDraw& draw, Tensor y,
                   Stream& stream);

}  // namespace polymoe::detail
