// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"

namespace polymoe::cuda {

/// activation_forward and activation_backward of polynorm and polyrelunorm.
void poly_norm_forward(const Activation& activation, const Tensor& x, const Tensor& coefficients,
                       const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                       const Tensor& y, Stream& stream);
void poly_norm_backward(const Activation& activation, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, const ActivationGradients& gradients,
                        const Tensor& partial_sums, Stream& stream);

}  // namespace polymoe::cuda
