// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm_cpu.h"

#include "kernels/activation/activation_cpu.h"

namespace polymoe::detail {
namespace {

Activation activation_of(const PolyNorm& norm) {
  return {.kind = norm.rectified ? ActivationKind::polyrelunorm : ActivationKind::polynorm,
          .order = norm.order,
          .epsilon = norm.epsilon};
}

}  // namespace

// PolyNorm is the activation on one group of rows; its row functions are in poly_norm_rows.cpp.

Shape poly_norm_partial_sums(const PolyNorm& norm, std::int64_t rows) {
  return activation_partial_sums(activation_of(norm), rows, 1);
}

void poly_norm_forward(CpuBackend backend, const PolyNorm& norm, const Tensor& x,
                       const Tensor& coefficients, Tensor y, Stream& stream) {
  activation_forward(backend, activation_of(norm), x,
                     coefficients.view({1, coefficients.elements()}), {0, x.dim(0)}, y, stream);
}

void poly_norm_backward(CpuBackend backend, const PolyNorm& norm, const Tensor& d_y,
                        const Tensor& x, const Tensor& coefficients, Tensor d_x,
                        Tensor d_coefficients, const Tensor& partial_sums, Stream& stream) {
  const Shape one_set{1, coefficients.elements()};
  activation_backward(backend, activation_of(norm), d_y, x, coefficients.view(one_set),
                      {0, x.dim(0)}, d_x, d_coefficients.view(one_set), partial_sums, stream);
}

}  // namespace polymoe::detail
