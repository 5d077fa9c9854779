// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/row_products.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/matmul/row_products_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void check_row_input(const char* operation, const RowInput& input, Device device) {
  check_real(operation, "x", input.x, 2);
  const std::int64_t k = input.x.dim(1);
  check_tensors(operation, device, {{"x", input.x, {1, k}, input.x.dtype()}});
  if (input.scale.defined())
    check_tensors(operation, device, {{"scale", input.scale, {k}, input.x.dtype()}});
}

NormedRow allocate_normed_row(const RowInput& input, Arena& scratch) {
  if (!input.scale.defined()) return {};
  return {scratch.allocate(input.x.shape(), input.x.dtype()),
          scratch.allocate({1}, accumulation_dtype(input.x.dtype()))};
}

void row_products(const RowInput& input, std::span<const RowProduct> products, Arena& scratch,
                  Stream& stream) {
  constexpr const char* operation = "row_products";
  constexpr std::size_t most = 4;
  if (products.empty() || products.size() > most) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(products.size()) +
                          " products, expected 1 to 4");
  }
  check_row_input(operation, input, stream.device());
  const Tensor& x = input.x;
  for (const RowProduct& product : products) {
    check_real(operation, "weight", product.weight, 2);
    const bool sums_kept = x.dtype() == DType::bf16 && product.y.dtype() == DType::f32;
    const DType output = sums_kept ? DType::f32 : x.dtype();
    const std::int64_t n = product.weight.dim(0);
    check_tensors(
        operation, stream.device(),
        {{"weight", product.weight, {n, x.dim(1)}, x.dtype()}, {"y", product.y, {1, n}, output}});
    if (product.residual.defined())
      check_tensors(operation, stream.device(), {{"residual", product.residual, {1, n}, output}});
  }
  const Arena::Scope scope(scratch);
  const NormedRow normed = allocate_normed_row(input, scratch);
  dispatch(stream.device(),
           [&](auto backend) { detail::row_products(backend, input, products, normed, stream); });
}

}  // namespace polymoe
