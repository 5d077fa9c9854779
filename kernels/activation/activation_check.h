// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"

namespace polymoe {

/// Throws InvalidArgument unless order and epsilon are in range.
void check_activation(const char* operation, const Activation& activation);

/// Throws InvalidArgument unless there is at least one group and the offsets ascend from 0 to
/// `rows`.
void check_offsets(const char* operation, const std::vector<std::int64_t>& offsets,
                   std::int64_t rows);

/// Throws InvalidArgument unless `coefficients` is [1 or groups, coefficient_count], or the
/// activation has none.
void check_coefficients(const char* operation, const char* name, const Activation& activation,
                        const Tensor& coefficients, std::int64_t groups, DType dtype,
                        Device device);

/// check_real() for a tensor of any rank.
void check_floating(const char* operation, const char* name, const Tensor& tensor);

}  // namespace polymoe
