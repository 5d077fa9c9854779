// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm.h"

#include <string>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// PolyNorm is an activation on one group of rows with one set of coefficients.
Activation activation_of(const PolyNorm& norm) {
  return {.kind = norm.rectified ? ActivationKind::polyrelunorm : ActivationKind::polynorm,
          .order = norm.order,
          .epsilon = norm.epsilon};
}

Tensor one_set(const Tensor& coefficients) {
  return coefficients.view({1, coefficients.elements()});
}

void check(const char* operation, const PolyNorm& norm, const Tensor& x) {
  check_activation(operation, activation_of(norm));
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
    detail::activation_forward(backend, activation_of(norm), x, one_set(coefficients),
                               {0, x.dim(0)}, Tensor(), y, stream);
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
  const Tensor partial_sums = scratch.allocate(
      detail::activation_partial_sums(activation_of(norm), x.dim(0), 1), DType::f64);
  dispatch(stream.device(), [&](auto backend) {
    detail::activation_backward(backend, activation_of(norm), d_y, x, one_set(coefficients),
                                {0, x.dim(0)}, Tensor(), {d_x, one_set(d_coefficients), {}, {}},
                                partial_sums, stream);
  });
}

}  // namespace polymoe
