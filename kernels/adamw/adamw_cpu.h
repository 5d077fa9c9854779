// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/adamw/adamw.h"

namespace polymoe::cpu {

/// Pointers to the first element, and the step's constants. Moment is T, or bf16 patterns beside
/// f32; `rounded` is null where no bf16 copy is wanted.
template <class T, class Moment>
struct AdamWRange {
  AdamWStep step;
  const T* gradient;
  T* parameter;
  Moment* m;
  Moment* v;
  std::uint16_t* rounded;
};

}  // namespace polymoe::cpu
