// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/embedding/embedding_backends.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

detail::EmbeddingScratch allocate_scratch(std::int64_t rows, std::int64_t width, Arena& arena,
                                          const Stream& stream) {
  using Scratch = detail::EmbeddingScratch;
  Scratch scratch;
  if (stream.device().backend() != DeviceType::cuda) return scratch;
  const auto parts = [rows](std::int64_t size) { return divide_up(rows, size); };
  for (Tensor& ids : scratch.ids) ids = arena.allocate({rows}, DType::i32);
  for (Tensor& positions : scratch.positions) positions = arena.allocate({rows}, DType::i32);
  scratch.digit_counts =
      arena.allocate({parts(Scratch::tile_rows), Scratch::digit_values}, DType::i32);
  scratch.window_sums = arena.allocate({parts(Scratch::window_rows), 2, width}, DType::f32);
  return scratch;
}

}  // namespace

void embedding_forward(const Tensor& tokens, const Tensor& table, Tensor y, Stream& stream) {
  const char* const operation = "embedding_forward";
  check_real(operation, "table", table, 2);
  check_real(operation, "y", y, 2);
  check_tensors(operation, stream.device(),
                {{"tokens", tokens, {y.dim(0)}, DType::i32},
                 {"table", table, table.shape(), table.dtype()},
                 {"y", y, {y.dim(0), table.dim(1)}, table.dtype()}});
  dispatch(stream.device(),
           [&](auto backend) { detail::embedding_forward(backend, tokens, table, y, stream); });
}

void embedding_backward(const Tensor& tokens, const Tensor& d_y, Tensor d_table, Arena& arena,
                        Stream& stream) {
  const char* const operation = "embedding_backward";
  check_real(operation, "d_table", d_table, 2);
  check_real(operation, "d_y", d_y, 2);
  check_tensors(
      operation, stream.device(),
      {{"tokens", tokens, {d_y.dim(0)}, DType::i32},
       {"d_y", d_y, {d_y.dim(0), d_table.dim(1)}, d_y.dtype()},
       {"d_table", d_table, d_table.shape(), weight_gradient_dtype(d_table, d_y.dtype())}});
  Arena::Scope scope(arena);
  const detail::EmbeddingScratch scratch = allocate_scratch(d_y.dim(0), d_y.dim(1), arena, stream);
  dispatch(stream.device(), [&](auto backend) {
    detail::embedding_backward(backend, tokens, d_y, d_table, scratch, stream);
  });
}

}  // namespace polymoe
