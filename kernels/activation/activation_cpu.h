// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/row_tiles.h"

namespace polymoe::detail {

/// Shape of the f64 scratch that holds the coefficients' gradients per tile of rows.
Shape activation_partial_sums(const Activation& activation, std::int64_t rows, std::int64_t groups);

void activation_forward(CpuBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        Tensor y, Stream& stream);

void activation_backward(CpuBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, Tensor d_x,
                         Tensor d_coefficients, const Tensor& partial_sums, Stream& stream);

}  // namespace polymoe::detail

namespace polymoe::cpu {

/// Adds the tiles' sums [tiles, n] in row order to d_coefficients [1 or groups, n].
void add_partial_sums(const RowTiles& tiles, const Tensor& partial_sums, Tensor d_coefficients);

}  // namespace polymoe::cpu
