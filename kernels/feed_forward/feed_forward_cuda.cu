// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward_backends.h"

#include <cstddef>

#include "kernels/activation/activation_backends.h"
#include "kernels/cuda/libraries/blas.h"
#include "kernels/matmul/row_products_cuda.h"

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

// Rows of each expert that a product takes, of all its rows.
struct RowRanges {
  std::vector<std::int64_t> begins, ends;

  RowRanges(const ExpertOffsets& offsets, const LateRows* late, bool take_early, bool take_late)
      : begins(offsets.begin(), offsets.end() - 1), ends(offsets.begin() + 1, offsets.end()) {
    if (late == nullptr) return;
    for (std::size_t e = 0; e < begins.size(); ++e) {
      const std::int64_t border = begins[e] + late->early[e];
      if (!take_late) ends[e] = border;
      if (!take_early) begins[e] = border;
    }
  }
};

// out[rows of e] = in[rows of e] op(weights[e]).
void multiply_rows(const Tensor& in, const Tensor& weights, bool transposed,
                   const RowRanges& ranges, const Tensor& out, Stream& stream) {
  const std::int64_t k = in.dim(1), n = out.dim(1);
  if (ranges.begins.size() == 1 && ranges.ends[0] - ranges.begins[0] == 1 && transposed) {
    cuda::multiply_row({.x = at(in, ranges.begins[0] * k),
                        .k = k,
                        .input = in.dtype(),
                        .output = out.dtype(),
                        .parts = {{{weights.raw(), place(out, ranges.begins[0] * n), nullptr, n}}},
                        .count = 1},
                       stream);
    return;
  }
  std::vector<cuda::Product> products;
  for (std::size_t e = 0; e < ranges.begins.size(); ++e) {
    const std::int64_t begin = ranges.begins[e], rows = ranges.ends[e] - begin;
    if (rows == 0) continue;
    products.push_back({.a = at(in, begin * k),
                        .transpose_a = false,
                        .b = at(weights, static_cast<std::int64_t>(e) * n * k),
                        .transpose_b = transposed,
                        .c = place(out, begin * n),
                        .accumulate = false,
                        .m = rows,
                        .n = n,
                        .k = k,
                        .input = in.dtype(),
                        .output = out.dtype()});
  }
  cuda::Blas::of(stream).multiply(products);
}

// The same, the early rows before the late ones are there.
void multiply_early_first(const Tensor& in, const Tensor& weights, bool transposed,
                          const ExpertOffsets& offsets, const LateRows* late, const Tensor& out,
                          Stream& stream) {
  if (late != nullptr) {
    multiply_rows(in, weights, transposed, {offsets, late, true, false}, out, stream);
    late->arrive();
  }
  multiply_rows(in, weights, transposed, {offsets, late, late == nullptr, true}, out, stream);
}

// The same, the late rows first, which leave before the others are done.
void multiply_late_first(const Tensor& in, const Tensor& weights, bool transposed,
                         const ExpertOffsets& offsets, const LateRows* late, const Tensor& out,
                         Stream& stream) {
  if (late != nullptr) {
    multiply_rows(in, weights, transposed, {offsets, late, false, true}, out, stream);
    late->leave();
  }
  multiply_rows(in, weights, transposed, {offsets, late, true, late == nullptr}, out, stream);
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
                          Tensor y, const FeedForwardScratch& scratch, Stream& stream,
                          const LateRows* late) {
  multiply_early_first(x, weights.up, true, offsets, late, pre, stream);
  activation_forward(CudaBackend{}, activation, pre, weights.coefficients, offsets, row_weights,
                     scratch.activated, stream);
  multiply_late_first(scratch.activated, weights.down, true, offsets, late, y, stream);
}

void feed_forward_pre_activations(CudaBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream& stream) {
  multiply_early_first(x, weights.up, true, offsets, nullptr, pre, stream);
}

void feed_forward_backward(CudaBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream& stream,
                           const LateRows* late) {
  // The activated rows' gradient, in its place the activated rows; pre becomes its own gradient.
  multiply_early_first(d_y, weights.down, false, offsets, late, scratch.activated, stream);
  activation_backward(CudaBackend{}, activation, scratch.activated, pre, weights.coefficients,
                      offsets, row_weights,
                      {pre, gradients.coefficients, scratch.activated, d_row_weights},
                      scratch.partial_sums, stream);
  multiply_late_first(pre, weights.up, false, offsets, late, d_x, stream);
  std::vector<cuda::Product> products;
  add_weight_gradients(pre, x, offsets, gradients.up, products);
  add_weight_gradients(d_y, scratch.activated, offsets, gradients.down, products);
  cuda::Blas::of(stream).multiply(products);
}

}  // namespace polymoe::detail
