// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/row_blocks.cuh"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// What the kernels of every activation take; pointers to the first row.
template <class T>
struct ActivationRows {
  const T* x;                 // [rows, factor * width]
  const T* d_y;               // [rows, width]; backward
  T* y;                       // [rows, width]; backward: null = unwanted; may be d_y
  T* d_x;                     // as x, and may be x; backward
  const float* coefficients;  // of the first group
  std::int64_t set_stride;    // from one group's coefficients to the next one's
  const float* row_weights;   // [rows]; null = 1
  float* d_row_weights;       // [rows]; null = unwanted; backward
  double* partial_sums;       // [blocks, coefficients]; null = there are none; backward
  int width;
  bool in_vectors;  // every row can be taken in vectors

  __device__ float weight_of(std::int64_t row) const {
    return row_weights == nullptr ? 1.0F : row_weights[row];
  }
};

/// One set of coefficients, or none, makes one group of all rows.
inline std::vector<std::int64_t> groups_of(const Tensor& coefficients,
                                           const std::vector<std::int64_t>& offsets) {
  if (!coefficients.defined() || coefficients.dim(0) == 1) return {offsets.front(), offsets.back()};
  return offsets;
}

template <class T>
ActivationRows<T> activation_rows(const Activation& activation, const Tensor& x,
                                  const Tensor& coefficients, const Tensor& row_weights) {
  ActivationRows<T> rows{};
  rows.x = static_cast<const T*>(x.raw());
  rows.set_stride = coefficient_count(activation);
  rows.coefficients = rows.set_stride == 0 ? nullptr : coefficients.data<float>();
  rows.row_weights = row_weights.defined() ? row_weights.data<float>() : nullptr;
  rows.width = static_cast<int>(x.dim(1) / pre_activation_factor(activation.kind));
  return rows;
}

template <class T>
ActivationRows<T> forward_rows(const Activation& activation, const Tensor& x,
                               const Tensor& coefficients, const Tensor& row_weights,
                               const Tensor& y) {
  ActivationRows<T> rows = activation_rows<T>(activation, x, coefficients, row_weights);
  rows.y = static_cast<T*>(y.raw());
  rows.in_vectors = in_vectors<T>(rows.width, {rows.x, rows.y});
  return rows;
}

template <class T>
ActivationRows<T> backward_rows(const Activation& activation, const Tensor& d_y, const Tensor& x,
                                const Tensor& coefficients, const Tensor& row_weights,
                                const ActivationGradients& gradients, const Tensor& partial_sums) {
  ActivationRows<T> rows = activation_rows<T>(activation, x, coefficients, row_weights);
  rows.d_y = static_cast<const T*>(d_y.raw());
  rows.d_x = static_cast<T*>(gradients.d_x.raw());
  if (gradients.y.defined()) rows.y = static_cast<T*>(gradients.y.raw());
  if (gradients.d_row_weights.defined()) {
    rows.d_row_weights = gradients.d_row_weights.template data<float>();
  }
  if (rows.set_stride > 0) rows.partial_sums = partial_sums.data<double>();
  rows.in_vectors = in_vectors<T>(rows.width, {rows.x, rows.d_y, rows.d_x, rows.y});
  return rows;
}

/// Calls launch(blocks, rows) for parts of the groups, with the coefficients of the part's first
/// group, and adds what the part leaves in partial_sums to its groups' d_coefficients.
template <class Rows, class Launch>
void for_each_part(const Rows& rows, const Tensor& coefficients,
                   const std::vector<std::int64_t>& group_offsets, std::int64_t rows_per_block,
                   const Tensor& d_coefficients, Stream& stream, const Launch& launch) {
  for_each_part(groups_of(coefficients, group_offsets), rows_per_block,
                [&](const RowBlocks& blocks, std::int64_t first_group) {
                  Rows part = rows;
                  part.coefficients += first_group * rows.set_stride;
                  launch(blocks, part);
                  if (part.partial_sums == nullptr) return;
                  add_partial_sums(blocks, part.partial_sums, static_cast<int>(rows.set_stride),
                                   d_coefficients.data<float>() + first_group * rows.set_stride,
                                   stream);
                });
}

}  // namespace polymoe::cuda
