// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm/rms_norm.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/rms_norm/norm_row_blocks.h"
#include "kernels/rms_norm/rms_norm_backends.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

constexpr std::int64_t max_row_blocks = 256;

void rms_norm_forward(const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream& stream) {
  const char* const operation = "rms_norm_forward";
  check_real(operation, "x", x, 2);
  const DType dtype = x.dtype();
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), dtype},
                 {"weight", weight, {x.dim(1)}, dtype},
                 {"y", y, x.shape(), dtype},
                 {"inv_rms", inv_rms, {x.dim(0)}, accumulation_dtype(dtype)}});
  dispatch(stream.device(), [&](auto backend) {
    detail::rms_norm_forward(backend, x, weight, epsilon, y, inv_rms, stream);
  });
}

void add_rms_norm_forward(const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream& stream) {
  const char* const operation = "add_rms_norm_forward";
  check_real(operation, "x", x, 2);
  const DType dtype = x.dtype();
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), dtype},
                 {"delta", delta, x.shape(), dtype},
                 {"weight", weight, {x.dim(1)}, dtype},
                 {"sum", sum, x.shape(), dtype},
                 {"y", y, x.shape(), dtype},
                 {"inv_rms", inv_rms, {x.dim(0)}, accumulation_dtype(dtype)}});
  dispatch(stream.device(), [&](auto backend) {
    detail::add_rms_norm_forward(backend, x, delta, weight, epsilon, sum, y, inv_rms, stream);
  });
}

void rms_norm_backward(const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Arena& scratch, Stream& stream) {
  const char* const operation = "rms_norm_backward";
  check_real(operation, "x", x, 2);
  const DType dtype = x.dtype();
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), dtype},
                 {"d_y", d_y, x.shape(), dtype},
                 {"inv_rms", inv_rms, {x.dim(0)}, accumulation_dtype(dtype)},
                 {"weight", weight, {x.dim(1)}, dtype},
                 {"d_x", d_x, x.shape(), dtype},
                 {"d_weight", d_weight, {x.dim(1)}, weight_gradient_dtype(d_weight, dtype)}});
  Arena::Scope scope(scratch);
  const Tensor partials = scratch.allocate({norm_row_blocks(x.dim(0), max_row_blocks), x.dim(1)},
                                           accumulation_dtype(dtype));
  dispatch(stream.device(), [&](auto backend) {
    detail::rms_norm_backward(backend, d_y, x, inv_rms, weight, write, d_x, d_weight, partials,
                              stream);
  });
}

}  // namespace polymoe
