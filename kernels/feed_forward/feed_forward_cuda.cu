// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward_backends.h"

#include <cstddef>

#include "kernels/activation/activation_backends.h"
#include "kernels/cuda/libraries/blas.h"

namespace polymoe::detail {
namespace {

// Rows of one expert in a matrix of all experts' rows, or one expert's matrix.
const void* at(const Tensor& tensor, std::int64_t elements) {
  return static_cast<const std::byte*>(tensor.raw()) +
         static_cast<std::size_t>(elements) * size_of(tensor.dtype());
}
void* place(const Tensor& tensor, std::int64_t elements) {
  return static_cast<std::byte*>(tensor.raw()) +
         static_cast<std::size_t>(elements) * size_of(tensor.dtype());
}

// out[rows of e] = in[rows of e] op(weights[e]).
void multiply_rows(const Tensor& in, const Tensor& weights, bool transposed,
                   const ExpertOffsets& offsets, const Tensor& out, Stream& stream) {
  const std::int64_t k = in.dim(1), n = out.dim(1);
  std::vector<cuda::Product> products;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    const std::int64_t rows = offsets[e + 1] - offsets[e];
    if (rows == 0) continue;
    products.push_back({.a = at(in, offsets[e] * k),
                        .transpose_a = false,
                        .b = at(weights, static_cast<std::int64_t>(e) * n * k),
                        .transpose_b = transposed,
                        .c = place(out, offsets[e] * n),
                        .accumulate = false,
                        .m = rows,
                        .n = n,
                        .k = k,
                        .input = in.dtype(),
                        .output = out.dtype()});
  }
  cuda::Blas::of(stream).multiply(products);
}

// gradients[e] += d_out[rows of e]^T in[rows of e].
void add_weight_gradients(const Tensor& d_out, const Tensor& in, const ExpertOffsets& offsets,
                          const Tensor& gradients, std::vector<cuda::Product>& products) {
  const std::int64_t m = d_out.dim(1), n = in.dim(1);
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    const std::int64_t rows = offsets[e + 1] - offsets[e];
    if (rows == 0) continue;
    products.push_back({.a = at(d_out, offsets[e] * m),
                        .transpose_a = true,
                        .b = at(in, offsets[e] * n),
                        .transpose_b = false,
                        .c = place(gradients, static_cast<std::int64_t>(e) * m * n),
                        .accumulate = true,
                        .m = m,
                        .n = n,
                        .k = rows,
                        .input = in.dtype(),
                        .output = gradients.dtype()});
  }
}

}  // namespace

void feed_forward_forward(CudaBackend, const Activation& activation,
                          const FeedForwardWeights& weights, const Tensor& x,
                          const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                          Tensor y, const FeedForwardScratch& scratch, Stream& stream) {
  multiply_rows(x, weights.up, true, offsets, pre, stream);
  activation_forward(CudaBackend{}, activation, pre, weights.coefficients, offsets, row_weights,
                     scratch.activated, stream);
  multiply_rows(scratch.activated, weights.down, true, offsets, y, stream);
}

void feed_forward_pre_activations(CudaBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream& stream) {
  multiply_rows(x, weights.up, true, offsets, pre, stream);
}

void feed_forward_backward(CudaBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream& stream) {
  // The activated rows' gradient, in its place the activated rows; pre becomes its own gradient.
  multiply_rows(d_y, weights.down, false, offsets, scratch.activated, stream);
  activation_backward(CudaBackend{}, activation, scratch.activated, pre, weights.coefficients,
                      offsets, row_weights,
                      {pre, gradients.coefficients, scratch.activated, d_row_weights},
                      scratch.partial_sums, stream);
  multiply_rows(pre, weights.up, false, offsets, d_x, stream);
  std::vector<cuda::Product> products;
  add_weight_gradients(pre, x, offsets, gradients.up, products);
  add_weight_gradients(d_y, scratch.activated, offsets, gradients.down, products);
  cuda::Blas::of(stream).multiply(products);
}

}  // namespace polymoe::detail
