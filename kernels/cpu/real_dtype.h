// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/dtype.h"

namespace polymoe::cpu {

/// Calls operation(T{}) with T = float or double, as `dtype` says; `dtype` is one of the two.
template <class Operation>
void with_real(DType dtype, Operation&& operation) {
  if (dtype == DType::f32) {
    operation(float{});
  } else {
    operation(double{});
  }
}

}  // namespace polymoe::cpu
