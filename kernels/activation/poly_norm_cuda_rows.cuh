// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/activation/poly_norm.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// What the kernels of both passes take.
template <class T>
struct PolyNormRows {
  const T* x;
  const T* d_y;  // backward
  T* out;        // y or d_x
  const float* coefficients;
  std::int64_t set_stride;  // between the groups' coefficients
  double* partial_sums;     // backward: [blocks, order + 1]
  int width;
  float floor;
  float epsilon;
  std::uint32_t zero;  // of unpack_again()
};

/// Calls operation(std::integral_constant<int, order>).
template <class Operation>
void with_order(int order, Operation&& operation) {
  if (order == 2)
    operation(std::integral_constant<int, 2>{});
  else if (order == 3)
    operation(std::integral_constant<int, 3>{});
  else
    operation(std::integral_constant<int, 4>{});
}

/// One set of coefficients makes one group of all rows.
inline std::vector<std::int64_t> groups_of(const Tensor& coefficients,
                                           const std::vector<std::int64_t>& offsets) {
  if (coefficients.dim(0) == 1) return {offsets.front(), offsets.back()};
  return offsets;
}

template <class T>
PolyNormRows<T> poly_norm_rows(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients) {
  PolyNormRows<T> rows{};
  rows.x = static_cast<const T*>(x.raw());
  rows.coefficients = coefficients.data<float>();
  rows.set_stride = norm.order + 1;
  rows.width = static_cast<int>(x.dim(1));
  rows.floor = norm.rectified ? 0.0F : -std::numeric_limits<float>::infinity();
  rows.epsilon = static_cast<float>(norm.epsilon);
  return rows;
}

}  // namespace polymoe::cuda
