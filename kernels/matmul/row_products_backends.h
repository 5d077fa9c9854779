// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/backend.h"
#include "kernels/matmul/row_products.h"

namespace polymoe {

/// Throws InvalidArgument unless `input` is a row, with a scale of its width where it has one.
void check_row_input(const char* operation, const RowInput& input, Device device);

/// Where the normed row of an input with a scale lies, if it is not formed where it is read.
struct NormedRow {
  Tensor y;        // [1, k]
  Tensor inv_rms;  // [1]
};
/// Undefined tensors without a scale.
NormedRow allocate_normed_row(const RowInput& input, Arena& scratch);

}  // namespace polymoe

namespace polymoe::detail {

void row_products(CpuBackend, const RowInput& input, std::span<const RowProduct> products,
                  const NormedRow& normed, Stream& stream);

void row_products(CudaBackend, const RowInput& input, std::span<const RowProduct> products,
                  const NormedRow& normed, Stream& stream);

}  // namespace polymoe::detail
