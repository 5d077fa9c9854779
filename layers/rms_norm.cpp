// SPDX-License-Identifier: Apache-2.0
#include "layers/rms_norm.h"

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/rotary/rotary.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {

RmsNorm::RmsNorm(ParameterStore& store, const std::string& name, std::int64_t width, double epsilon)
    : scale_(&store.declare(
          dense_parameter(name + ".weight", {width},
                          {.kind = InitialValues::constant, .scale = 1.0, .listed = {}}))),
      epsilon_(epsilon) {}

void RmsNorm::forward(const Tensor& x, Tensor y, Tensor inv_rms, ExecutionContext& context) const {
  rms_norm_forward(x, scale_->value, epsilon_, y, inv_rms, context.stream);
}

void RmsNorm::forward_sum(const Tensor& x, const Tensor& delta, Tensor sum, Tensor y,
                          Tensor inv_rms, ExecutionContext& context) const {
  add_rms_norm_forward(x, delta, scale_->value, epsilon_, sum, y, inv_rms, context.stream);
}

void RmsNorm::backward(const Tensor& d_y, const Tensor& x, const Tensor& inv_rms, Write write,
                       Tensor d_x, ExecutionContext& context) const {
  rms_norm_backward(d_y, x, inv_rms, scale_->value, write, d_x, scale_->gradient, context.arena,
                    context.stream);
}

void RmsNorm::forward_rotated(const RotaryPositions& positions, const Tensor& x, Tensor y,
                              Tensor inv_rms, ExecutionContext& context) const {
  norm_rotary_forward(positions, x, scale_->value, epsilon_, y, inv_rms, context.stream);
}

void RmsNorm::backward_rotated(const RotaryPositions& positions, const Tensor& d_y, const Tensor& x,
                               const Tensor& inv_rms, Tensor d_x, ExecutionContext& context) const {
  norm_rotary_backward(positions, d_y, x, inv_rms, scale_->value, d_x, scale_->gradient,
                       context.arena, context.stream);
}

}  // namespace polymoe
