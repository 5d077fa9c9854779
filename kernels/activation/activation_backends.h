// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/backend.h"

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

namespace polymoe::detail {

/// Shape of the f64 scratch that holds the coefficients' gradients per block of rows.
Shape activation_partial_sums(const Activation& activation, std::int64_t rows, std::int64_t groups);

void activation_forward(CpuBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, Tensor y, Stream& stream);

void activation_backward(CpuBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                         const ActivationGradients& gradients, const Tensor& partial_sums,
                         Stream& stream);

void activation_forward(CudaBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, Tensor y, Stream& stream);

void activation_backward(CudaBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                         const ActivationGradients& gradients, const Tensor& partial_sums,
                         Stream& stream);

}  // namespace polymoe::detail
