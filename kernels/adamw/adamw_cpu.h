// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "kernels/adamw/adamw.h"

namespace polymoe::cpu {

/// Values of f32 as bf16 patterns and the 16 bits that these lack.
struct SplitValues {
  std::uint16_t* high;
  std::uint16_t* low;
  SplitValues operator+(std::int64_t elements) const { return {high + elements, low + elements}; }
};

/// What points to the first element, and the step's constants. Moment is T, or bf16 patterns beside
/// f32; Values is T*, or SplitValues beside f32.
template <class T, class Moment, class Values>
struct AdamWRange {
  AdamWStep step;
  const T* gradient;
  Values parameter;
  std::array<Moment*, optimizer_state_kinds.size()> state;
};

}  // namespace polymoe::cpu
