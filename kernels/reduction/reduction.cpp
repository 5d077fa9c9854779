// SPDX-License-Identifier: Apache-2.0
#include "kernels/reduction/reduction.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/reduction/reduction_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// A block's partial sum is one task; its size alone fixes the order of the whole sum.
constexpr std::int64_t elements_per_block = 32768;

Tensor allocate_partials(const Tensor& x, Arena& scratch) {
  return scratch.allocate({divide_up(x.elements(), elements_per_block)}, DType::f64);
}

void check_sum(const char* operation, const Tensor& x, const Tensor& result, Stream& stream) {
  check_real(operation, "x", x, x.shape().rank());
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), x.dtype()}, {"result", result, {1}, DType::f64}});
}

}  // namespace

void sum(const Tensor& x, Tensor result, Arena& scratch, Stream& stream) {
  check_sum("sum", x, result, stream);
  Arena::Scope scope(scratch);
  const Tensor partials = allocate_partials(x, scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::sum(backend, x, elements_per_block, partials, result, stream);
  });
}

void sum_of_squares(const Tensor& x, Tensor result, Arena& scratch, Stream& stream) {
  check_sum("sum_of_squares", x, result, stream);
  Arena::Scope scope(scratch);
  const Tensor partials = allocate_partials(x, scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::sum_of_squares(backend, x, elements_per_block, partials, result, stream);
  });
}

void add(const Tensor& x, Tensor y, Stream& stream) {
  check_real("add", "x", x, x.shape().rank());
  const bool narrow = stream.device().type != DeviceType::cpu && y.dtype() == DType::bf16;
  check_tensors("add", stream.device(),
                {{"x", x, x.shape(), x.dtype()},
                 {"y", y, x.shape(), x.dtype() == DType::f32 && narrow ? DType::bf16 : x.dtype()}});
  dispatch(stream.device(), [&](auto backend) { detail::add(backend, x, y, stream); });
}

void fill(double value, Tensor y, Stream& stream) {
  check_real("fill", "y", y, y.shape().rank());
  check_tensors("fill", stream.device(), {{"y", y, y.shape(), y.dtype()}});
  dispatch(stream.device(), [&](auto backend) { detail::fill(backend, value, y, stream); });
}

}  // namespace polymoe
