// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

namespace polymoe {

/// a / b, rounded up, for a >= 0 and b > 0.
template <std::integral A, std::integral B>
constexpr auto divide_up(A a, B b) {
  return (a + b - 1) / b;
}

/// The least multiple of `multiple` that is not below `value`, for value >= 0 and multiple > 0.
template <std::integral A, std::integral B>
constexpr auto round_up(A value, B multiple) {
  return divide_up(value, multiple) * multiple;
}

}  // namespace polymoe
