// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "kernels/activation/activation_cuda_rows.cuh"
#include "kernels/activation/poly_norm_formulas-inl.h"

namespace polymoe::cuda {

/// The larger of the two; NaN where one is.
__device__ inline float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

/// What the kernels of both passes take.
template <class T>
struct PolyNormRows : ActivationRows<T> {
  float floor;  // 0 or -infinity: powers are taken of t = max(x, floor)
  float epsilon;
  std::uint32_t zero;  // of unpack_again()

  PolyNormRows(const ActivationRows<T>& rows, const Activation& activation)
      : ActivationRows<T>(rows),
        floor(activation.kind == ActivationKind::polyrelunorm
                  ? 0.0F
                  : -std::numeric_limits<float>::infinity()),
        epsilon(static_cast<float>(activation.epsilon)),
        zero(0) {}

  __device__ float inner(float x) const { return max_or_nan(x, floor); }
  __device__ float inner_slope(float x) const { return x <= floor ? 0.0F : 1.0F; }
};

template <int order>
using Value = PolyNormValue<DeviceMath, order>;
template <int order>
using Gradient = PolyNormGradient<DeviceMath, order>;

/// Calls operation(std::integral_constant<int, order>). Throws InvalidArgument on another order.
template <class Operation>
void with_order(int order, Operation&& operation) {
  if (order == 2)
    operation(std::integral_constant<int, 2>{});
  else if (order == 3)
    operation(std::integral_constant<int, 3>{});
  else if (order == 4)
    operation(std::integral_constant<int, 4>{});
  else
    throw InvalidArgument("no PolyNorm of order " + std::to_string(order));
}

}  // namespace polymoe::cuda
