// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/row_tiles.h"

namespace polymoe::cpu {

/// y[r] = row_scale[r] * activation(x[r]) on dense rows of one set of coefficients.
template <class T>
struct ActivationForwardRows {
  std::int64_t rows;
  std::int64_t width;     // columns of y
  const T* coefficients;  // [coefficient_count]; null where there are none
  const T* x;             // [rows, factor * width]
  const T* row_scale;     // [rows]; null = 1
  T* y;                   // [rows, width]; may alias x where the factor is 1
  std::int64_t y_stride;  // elements from one row of y to the next
  bool streaming;         // write y past the caches: for outputs that exceed them
};

/// The gradients of ActivationForwardRows, and what comes with them at no further pass over memory.
template <class T>
struct ActivationBackwardRows {
  std::int64_t rows;
  std::int64_t width;
  const T* coefficients;
  const T* x;
  const T* row_scale;       // [rows]; null = 1
  const T* d_y;             // [rows, width]
  std::int64_t d_y_stride;  // elements from one row of d_y to the next
  T* d_x;                   // [rows, factor * width]; may alias x, and d_y where the factor is 1
  T* y;                     // [rows, width] forward's output again; may alias d_y; null = unwanted
  std::int64_t y_stride;    // elements from one row of y to the next
  T* d_row_scale;           // [rows] <d_y[r], activation(x[r])>; null = unwanted
  double* d_coefficients;   // [coefficient_count], added to; null = unwanted
  bool streaming;           // write d_x past the caches
};

/// Every activation, on the calling thread alone, with the widest vectors of the machine.
/// Sums over a row run in lanes of T, sums over rows in double, in row order. T is float or double.
template <class T>
void activation_rows_forward(const Activation& activation, const ActivationForwardRows<T>& a);
template <class T>
void activation_rows_backward(const Activation& activation, const ActivationBackwardRows<T>& a);

/// What the two above do, for polynorm and polyrelunorm alone.
template <class T>
void poly_norm_rows_forward(const Activation& activation, const ActivationForwardRows<T>& a);
template <class T>
void poly_norm_rows_backward(const Activation& activation, const ActivationBackwardRows<T>& a);

/// Adds the tiles' sums [tiles, n] in row order to d_coefficients [1 or groups, n].
void add_partial_sums(const RowTiles& tiles, const Tensor& partial_sums, Tensor d_coefficients);

}  // namespace polymoe::cpu
