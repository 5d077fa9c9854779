// SPDX-License-Identifier: Apache-2.0
#include <span>

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/matmul_backends.h"
#include "kernels/matmul/row_products.h"
#include "kernels/matmul/row_products_backends.h"
#include "kernels/rms_norm/rms_norm.h"
#include "runtime/copy.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void row_products(CpuBackend, const RowInput& input, std::span<const RowProduct> products,
                  const NormedRow& normed, Stream& stream) {
  Tensor x = input.x;
  if (input.scale.defined()) {
    rms_norm_forward(x, input.scale, input.epsilon, normed.y, normed.inv_rms, stream);
    x = normed.y;
  }
  for (const RowProduct& product : products) {
    const Tensor& residual = product.residual;
    if (residual.defined() && residual.raw() != product.y.raw()) copy(residual, product.y, stream);
    matmul(CpuBackend{}, x, Transpose::no, product.weight, Transpose::yes,
           residual.defined() ? Write::accumulate : Write::overwrite, product.y, stream);
  }
}

}  // namespace polymoe::detail
