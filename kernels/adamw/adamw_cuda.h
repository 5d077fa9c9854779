// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/adamw/adamw.h"

namespace polymoe::detail {

void adamw(CudaBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m,
           Tensor v, Tensor rounded, Stream& stream);

}  // namespace polymoe::detail
