// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/rms_norm/norm_row_blocks.h"
#include "kernels/rotary/norm_rotary_backends.h"
#include "kernels/rotary/rotary.h"
#include "kernels/rotary/rotary_backends.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

constexpr std::int64_t max_row_blocks = 512;  // as many as a large GPU runs at a time

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
                 {"d_weight", d_weight, {width}, weight_gradient_dtype(d_weight, dtype)}});
  const Arena::Scope scope(scratch);
  const Tensor partials = scratch.allocate({norm_row_blocks(x.dim(0), max_row_blocks), width},
                                           accumulation_dtype(dtype));
  dispatch(stream.device(), [&](auto backend) {
    detail::norm_rotary_backward(backend, positions, d_y, x, inv_rms, weight, d_x, d_weight,
                                 partials, stream);
  });
}

}  // namespace polymoe
