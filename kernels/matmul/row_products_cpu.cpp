// SPDX-License-Identifier: Apache-2.0
#include <span>

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/matmul_backends.h"
#include "kernels/matmul/row_products.h"
#include "kernels/matmul/row_products_backends.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void row_products(CpuBackend, const Tensor& x, std::span<const RowProduct> products,
                  Stream& stream) {
  for (const RowProduct& product : products)
    matmul(CpuBackend{}, x, Transpose::no, product.weight, Transpose::yes, Write::overwrite,
           product.y, stream);
}

}  // namespace polymoe::detail
