// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// One of the products that a row takes part in.
struct RowProduct {
  Tensor weight;  // [n, k]
  Tensor y;       // [1, n]
};

/// y = x weight^T for each of one to four weights: products of one row, which read every weight once
/// and are bound by that. On CUDA one kernel for all of them.
///
/// x [1, k]; dtypes as in matmul() (kernels/matmul/matmul.h); y overwritten, aliases nothing
///
/// Asynchronous on `stream`; on CUDA nothing is chosen or allocated at a first call, and the bits are
/// those of matmul(). Throws InvalidArgument on a mismatch.
void row_products(const Tensor& x, std::span<const RowProduct> products, Stream& stream);

}  // namespace polymoe
