// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm_rotary.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/norm_rotary.h"
#include "kernels/cuda/norm_rotary.h"
#include "kernels/rotary_check.h"

namespace polymoe {
namespace {

// The weight's gradient is summed per block of rows, then over the blocks. The number of blocks
// depends on the rows alone, so that the order of the sum does not depend on threads or the GPU.
// As many as a large GPU runs at a time.
constexpr std::int64_t max_row_blocks = 512;
constexpr std::int64_t min_rows_per_block = 16;

std::int64_t row_block_count(std::int64_t rows) {
  return std::min(max_row_blocks, (rows + min_rows_per_block - 1) / min_rows_per_block);
}

}  // namespace

void norm_rotary_forward(const RotaryPositions& positions, const Tensor& x, const Tensor& weight,
                         double epsilon, Tensor y, Tensor inv_rms, Stream& stream) {
  const char* const operation = "norm_rotary_forward";
  check_rotary(operation, "x", positions, x);
  const DType dtype = x.dtype();
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), dtype},
                 {"weight", weight, {x.dim(1) * x.dim(2)}, dtype},
                 {"y", y, x.shape(), dtype},
                 {"inv_rms", inv_rms, {x.dim(0)}, accumulation_dtype(dtype)}});
  dispatch(stream.device(), [&](auto backend) {
    detail::norm_rotary_forward(backend, positions, x, weight, epsilon, y, inv_rms, stream);
  });
}

void norm_rotary_backward(const RotaryPositions& positions, const Tensor& d_y, const Tensor& x,
                          const Tensor& inv_rms, const Tensor& weight, Tensor d_x, Tensor d_weight,
                          Arena& scratch, Stream& stream) {
  const char* const operation = "norm_rotary_backward";
  check_rotary(operation, "x", positions, x);
  const DType dtype = x.dtype();
  const std::int64_t width = x.dim(1) * x.dim(2);
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), dtype},
                 {"d_y", d_y, x.shape(), dtype},
                 {"inv_rms", inv_rms, {x.dim(0)}, accumulation_dtype(dtype)},
                 {"weight", weight, {width}, dtype},
                 {"d_x", d_x, x.shape(), dtype},
                 {"d_weight", d_weight, {width}, accumulation_dtype(dtype)}});
  const Arena::Scope scope(scratch);
  const Tensor partials =
      scratch.allocate({row_block_count(x.dim(0)), width}, accumulation_dtype(dtype));
  dispatch(stream.device(), [&](auto backend) {
    detail::norm_rotary_backward(backend, positions, d_y, x, inv_rms, weight, d_x, d_weight,
                                 partials, stream);
  });
}

}  // namespace polymoe
