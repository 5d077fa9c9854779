// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace polymoe {

/// Values as a rank holds them: of the tensor's dtype, or where `low` is defined f32 ones, of which
/// `values` are the upper part in bf16 and `low` the lower 16 bits, u16 (kernels/split_float).
struct HeldValues {
  Tensor values;
  Tensor low = {};

  bool split() const { return low.defined(); }
  DType dtype() const { return split() ? DType::f32 : values.dtype(); }
  std::int64_t elements() const { return values.elements(); }
  HeldValues flat() const {
    const Shape all{elements()};
    return {values.view(all), split() ? low.view(all) : Tensor()};
  }
  /// Of flat ones, elements [begin, end).
  HeldValues rows(std::int64_t begin, std::int64_t end) const {
    return {values.rows(begin, end), split() ? low.rows(begin, end) : Tensor()};
  }
};

}  // namespace polymoe
