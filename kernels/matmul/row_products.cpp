// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/row_products.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/matmul/row_products_backends.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void row_products(const Tensor& x, std::span<const RowProduct> products, Stream& stream) {
  constexpr const char* operation = "row_products";
  constexpr std::size_t most = 4;
  check_real(operation, "x", x, 2);
  if (products.empty() || products.size() > most) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(products.size()) +
                          " products, expected 1 to 4");
  }
  check_tensors(operation, stream.device(), {{"x", x, {1, x.dim(1)}, x.dtype()}});
  for (const RowProduct& product : products) {
    check_real(operation, "weight", product.weight, 2);
    const bool sums_kept = x.dtype() == DType::bf16 && product.y.dtype() == DType::f32;
    const std::int64_t n = product.weight.dim(0);
    check_tensors(operation, stream.device(),
                  {{"weight", product.weight, {n, x.dim(1)}, x.dtype()},
                   {"y", product.y, {1, n}, sums_kept ? DType::f32 : x.dtype()}});
  }
  dispatch(stream.device(),
           [&](auto backend) { detail::row_products(backend, x, products, stream); });
}

}  // namespace polymoe
