// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/output_loss.h"

namespace polymoe {
namespace {

// A chunk's logits stay in the last-level cache where the vocabulary allows it; below the least
// number of rows, reading the weights again for every chunk would take longer than the products.
constexpr std::int64_t chunk_bytes = std::int64_t{16} << 20;
constexpr std::int64_t min_chunk_rows = 256;

Tensor allocate_logits(const Tensor& x, const Tensor& weight, Arena& scratch) {
  const std::int64_t row_bytes =
      std::max<std::int64_t>(weight.dim(0), 1) * static_cast<std::int64_t>(size_of(x.dtype()));
  const std::int64_t rows = std::min(std::max(chunk_bytes / row_bytes, min_chunk_rows), x.dim(0));
  return scratch.allocate({rows, weight.dim(0)}, x.dtype());
}

void check_arguments(const char* operation, const Tensor& x, const Tensor& weight,
                     const Tensor& targets, const Tensor& token_loss, const Stream& stream) {
  check_real(operation, "x", x, 2);
  check_real(operation, "weight", weight, 2);
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), x.dtype()},
                 {"weight", weight, {weight.dim(0), x.dim(1)}, x.dtype()},
                 {"targets", targets, {x.dim(0)}, DType::i32},
                 {"token_loss", token_loss, {x.dim(0)}, x.dtype()}});
}

}  // namespace

void output_loss_forward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, Arena& scratch, Stream& stream) {
  check_arguments("output_loss_forward", x, weight, targets, token_loss, stream);
  Arena::Scope scope(scratch);
  const Tensor logits = allocate_logits(x, weight, scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::output_loss_forward(backend, x, weight, targets, token_loss, logits, stream);
  });
}

void output_loss_forward_backward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                  double scale, Tensor token_loss, Tensor d_x, Tensor d_weight,
                                  Arena& scratch, Stream& stream) {
  const char* const operation = "output_loss_forward_backward";
  check_arguments(operation, x, weight, targets, token_loss, stream);
  check_tensors(
      operation, stream.device(),
      {{"d_x", d_x, x.shape(), x.dtype()}, {"d_weight", d_weight, weight.shape(), x.dtype()}});
  Arena::Scope scope(scratch);
  const Tensor logits = allocate_logits(x, weight, scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::output_loss_forward_backward(backend, x, weight, targets, scale, token_loss, d_x,
                                         d_weight, logits, stream);
  });
}

}  // namespace polymoe
