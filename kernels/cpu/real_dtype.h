// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

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

/// In the namespace of an instruction set: what POLYMOE_DISPATCH_REAL(name) picks from, a function
/// template of the type alone.
#define POLYMOE_REAL_VERSIONS(name, function)   \
  constexpr auto& name##_f32 = function<float>; \
  constexpr auto& name##_f64 = function<double>

/// After the instruction sets: name<T>(arguments...), T = float or double, calls the version of the
/// best instruction set that the machine has.
#define POLYMOE_DISPATCH_REAL(name)                                                   \
  HWY_EXPORT(name##_f32);                                                             \
  HWY_EXPORT(name##_f64);                                                             \
  template <class T, class... Arguments>                                              \
  auto name(Arguments&&... arguments) {                                               \
    if constexpr (std::is_same_v<T, float>) {                                         \
      return HWY_DYNAMIC_DISPATCH(name##_f32)(std::forward<Arguments>(arguments)...); \
    } else {                                                                          \
      return HWY_DYNAMIC_DISPATCH(name##_f64)(std::forward<Arguments>(arguments)...); \
    }                                                                                 \
  }
