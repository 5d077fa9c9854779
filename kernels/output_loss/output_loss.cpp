// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss/output_loss.h"

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/output_loss/output_loss_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// On the CPU a chunk's logits stay in the last-level cache where the vocabulary allows it; below
// the least number of rows, reading the weights again for every chunk would take longer than the
// products.
constexpr std::int64_t cpu_chunk_bytes = std::int64_t{16} << 20;
constexpr std::int64_t min_cpu_chunk_rows = 256;

// On a GPU nothing stays in cache. A chunk's sums are read and written once over the weights'
// gradient, in the time in which under 1000 rows are multiplied: thousands of rows hide it (4096 of
// a vocabulary of 50304 take 1.15 GiB). Whole tiles of products in all chunks but the last.
constexpr std::int64_t cuda_chunk_bytes = std::int64_t{1280} << 20;
constexpr std::int64_t cuda_tile_rows = 256;

std::int64_t cpu_chunk_rows(std::int64_t rows, std::int64_t row_bytes) {
  return std::min(std::max(cpu_chunk_bytes / row_bytes, min_cpu_chunk_rows), rows);
}

// Chunks of about equal size.
std::int64_t cuda_chunk_rows(std::int64_t rows, std::int64_t row_bytes) {
  const std::int64_t most =
      std::max<std::int64_t>(cuda_chunk_bytes / row_bytes / cuda_tile_rows, 1) * cuda_tile_rows;
  const std::int64_t chunks = std::max<std::int64_t>(divide_up(rows, most), 1);
  const std::int64_t tiles = divide_up(rows, chunks * cuda_tile_rows);
  return std::min(tiles * cuda_tile_rows, rows);
}

/// `d_weight` is undefined where gradients are not wanted.
detail::OutputLossChunk allocate_chunk(const Tensor& x, const Tensor& weight,
                                       const Tensor& d_weight, Arena& scratch,
                                       const Stream& stream) {
  const DType wide = accumulation_dtype(x.dtype());
  const bool in_place = x.dtype() == wide;
  const std::int64_t rows = x.dim(0), vocab = weight.dim(0);
  const auto value_bytes =
      static_cast<std::int64_t>(size_of(wide) + (in_place ? 0 : size_of(x.dtype())));
  const std::int64_t row_bytes = std::max<std::int64_t>(vocab, 1) * value_bytes;
  const std::int64_t chunk_rows = stream.device().backend() == DeviceType::cuda
                                      ? cuda_chunk_rows(rows, row_bytes)
                                      : cpu_chunk_rows(rows, row_bytes);
  detail::OutputLossChunk chunk;
  chunk.logits = scratch.allocate({chunk_rows, vocab}, wide);
  if (!d_weight.defined()) return chunk;
  chunk.d_logits = in_place ? chunk.logits : scratch.allocate({chunk_rows, vocab}, x.dtype());
  // One chunk's sum is rounded as it is added; that of several must not be at each of them.
  if (d_weight.dtype() != wide && chunk_rows < rows)
    chunk.d_weight = scratch.allocate(d_weight.shape(), wide);
  return chunk;
}

void check_arguments(const char* operation, const Tensor& x, const Tensor& weight,
                     const Tensor& targets, const Tensor& token_loss, const Stream& stream) {
  check_real(operation, "x", x, 2);
  check_real(operation, "weight", weight, 2);
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), x.dtype()},
                 {"weight", weight, {weight.dim(0), x.dim(1)}, x.dtype()},
                 {"targets", targets, {x.dim(0)}, DType::i32},
                 {"token_loss", token_loss, {x.dim(0)}, accumulation_dtype(x.dtype())}});
}

}  // namespace

void output_loss_forward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, Arena& scratch, Stream& stream) {
  check_arguments("output_loss_forward", x, weight, targets, token_loss, stream);
  Arena::Scope scope(scratch);
  const detail::OutputLossChunk chunk = allocate_chunk(x, weight, {}, scratch, stream);
  dispatch(stream.device(), [&](auto backend) {
    detail::output_loss_forward(backend, x, weight, targets, token_loss, chunk, stream);
  });
}

void output_loss_forward_backward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                  double scale, Tensor token_loss, Tensor d_x, Tensor d_weight,
                                  Arena& scratch, Stream& stream) {
  const char* const operation = "output_loss_forward_backward";
  check_arguments(operation, x, weight, targets, token_loss, stream);
  check_tensors(
      operation, stream.device(),
      {{"d_x", d_x, x.shape(), x.dtype()},
       {"d_weight", d_weight, weight.shape(), weight_gradient_dtype(d_weight, x.dtype())}});
  Arena::Scope scope(scratch);
  const detail::OutputLossChunk chunk = allocate_chunk(x, weight, d_weight, scratch, stream);
  dispatch(stream.device(), [&](auto backend) {
    detail::output_loss_forward_backward(backend, x, weight, targets, scale, token_loss, d_x,
                                         d_weight, chunk, stream);
  });
}

}  // namespace polymoe
