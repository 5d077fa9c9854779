// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include "runtime/dtype.h"

namespace polymoe::cuda {

/// Calls operation(T{}) with T = float or __nv_bfloat16, as `dtype` says; `dtype` is one of the
/// two.
template <class Operation>
void with_real(DType dtype, Operation&& operation) {
  if (dtype == DType::f32) {
    operation(float{});
  } else {
    operation(__nv_bfloat16{});
  }
}

}  // namespace polymoe::cuda
