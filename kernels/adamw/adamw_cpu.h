// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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
  std::array<Moment*, optimizer_state_kinds.size()> state;
  std::uint16_t* rounded;
};

}  // namespace polymoe::cpu
