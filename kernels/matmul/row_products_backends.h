// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/backend.h"
#include "kernels/matmul/row_products.h"

namespace polymoe::detail {

void row_products(CpuBackend, const Tensor& x, std::span<const RowProduct> products,
                  Stream& stream);

void row_products(CudaBackend, const Tensor& x, std::span<const RowProduct> products,
                  Stream& stream);

}  // namespace polymoe::detail
