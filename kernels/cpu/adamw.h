// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/adamw.h"

namespace polymoe::detail {

void adamw(CpuBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m,
           Tensor v, Stream& stream);

}  // namespace polymoe::detail

namespace polymoe::cpu {

/// Pointers to the first element, and the step's constants.
template <class T>
struct AdamWRange {
  AdamWStep step;
  const T* gradient;
  T* parameter;
  T* m;
  T* v;
};

}  // namespace polymoe::cpu
