// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"

namespace polymoe::detail {

void activation_forward(CudaBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        Tensor y, Stream& stream);

void activation_backward(CudaBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, Tensor d_x,
                         Tensor d_coefficients, const Tensor& partial_sums, Stream& stream);

}  // namespace polymoe::detail
