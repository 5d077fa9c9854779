// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm.h"

#include "kernels/activation/activation_check.h"
#include "kernels/activation/poly_norm_cpu.h"
#include "kernels/activation/poly_norm_cuda.h"
#include "kernels/check.h"

namespace polymoe {
namespace {

void check(const char* operation, const PolyNorm& norm, const Tensor& x) {
  check_activation(operation, {.order = norm.order, .epsilon = norm.epsilon});
  check_floating(operation, "x", x);
  if (x.shape().rank() != 2) {
    throw InvalidArgument(std::string(operation) + ": x has shape " + to_string(x.shape()) +
                          ", expected [rows, width]");
  }
}

}  // namespace

void poly_norm_forward(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients, Tensor y,
                       Stream& stream) {
  constexpr const char* operation = "poly_norm_forward";
  check(operation, norm, x);
  check_tensors(
      operation, stream.device(),
      {{"x", x, x.shape(), x.dtype()},
       {"coefficients", coefficients, Shape{norm.order + 1}, accumulation_dtype(x.dtype())},
       {"y", y, x.shape(), x.dtype()}});
  dispatch(stream.device(), [&](auto backend) {
    detail::poly_norm_forward(backend, norm, x, coefficients, y, stream);
  });
}

void poly_norm_backward(const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, Tensor d_x, Tensor d_coefficients,
                        Arena& scratch, Stream& stream) {
  constexpr const char* operation = "poly_norm_backward";
  check(operation, norm, x);
  check_tensors(
      operation, stream.device(),
      {{"d_y", d_y, x.shape(), x.dtype()},
       {"x", x, x.shape(), x.dtype()},
       {"coefficients", coefficients, Shape{norm.order + 1}, accumulation_dtype(x.dtype())},
       {"d_x", d_x, x.shape(), x.dtype()},
       {"d_coefficients", d_coefficients, Shape{norm.order + 1}, accumulation_dtype(x.dtype())}});
  const Arena::Scope scope(scratch);
  const Tensor partial_sums =
      scratch.allocate(detail::poly_norm_partial_sums(norm, x.dim(0)), DType::f64);
  dispatch(stream.device(), [&](auto backend) {
    detail::poly_norm_backward(backend, norm, d_y, x, coefficients, d_x, d_coefficients,
                               partial_sums, stream);
  });
}

}  // namespace polymoe
