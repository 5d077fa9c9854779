// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/random_normal/random_normal.h"

namespace polymoe::detail {

void random_normal(CpuBackend, const RandomStream& random, const NormalDraw& draw, Tensor y,
                   Stream& stream);

}  // namespace polymoe::detail
