// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// What a product of one row reads: x, or with `scale` x / rms(x) * scale, rounded as
/// rms_norm_forward() (kernels/rms_norm/rms_norm.h) rounds it.
struct RowInput {
  Tensor x;            // [1, k]
  Tensor scale = {};   // [k], or undefined
  double epsilon = 0;  // of the norm
};

/// One of the products that a row takes part in.
struct RowProduct {
  Tensor weight;         // [n, k]
  Tensor y;              // [1, n]
  Tensor residual = {};  // [1, n] as y, and may be y; undefined = 0
};

/// y = residual + input weight^T for each of one to four weights: products of one row, which read
/// every weight once and are bound by that. On CUDA one kernel for all of them that have y of one
/// dtype, with the norm of the row and the sum, which is rounded once.
///
/// dtypes as in matmul() (kernels/matmul/matmul.h); y overwritten, aliases nothing else
///
/// Asynchronous on `stream`; on CUDA nothing is chosen or allocated at a first call, and without
/// norm and residual the bits are those of matmul(). A normed row may lie in `scratch`. Throws
/// InvalidArgument on a mismatch.
void row_products(const RowInput& input, std::span<const RowProduct> products, Arena& scratch,
                  Stream& stream);

}  // namespace polymoe
