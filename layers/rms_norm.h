// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/matmul/row_products.h"
#include "kernels/rotary/rotary.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

/// RMSNorm with a learned scale that starts at 1. Declares "NAME.weight" [width].
class RmsNorm {
 public:
  RmsNorm(ParameterStore& store, const std::string& name, std::int64_t width, double epsilon);

  /// y = x / rms(x) * scale. The caller keeps x and inv_rms for backward, or forms them again.
  ///
  /// x, y [rows, width]  y may alias x; inv_rms [rows]
  void forward(const Tensor& x, Tensor y, Tensor inv_rms, ExecutionContext& context) const;

  /// sum = x + delta; y = sum / rms(sum) * scale.
  ///
  /// x, delta, sum, y [rows, width]  sum may alias x or delta; inv_rms [rows]
  void forward_sum(const Tensor& x, const Tensor& delta, Tensor sum, Tensor y, Tensor inv_rms,
                   ExecutionContext& context) const;

  /// Adds to the scale's gradient. d_x may alias d_y when overwriting.
  void backward(const Tensor& d_y, const Tensor& x, const Tensor& inv_rms, Write write, Tensor d_x,
                ExecutionContext& context) const;

  /// y = rotary(x / rms(x) * scale), see kernels/norm_rotary.h.
  ///
  /// x, y [rows, heads, head_dim]  y may alias x; inv_rms [rows]
  void forward_rotated(const RotaryPositions& positions, const Tensor& x, Tensor y, Tensor inv_rms,
                       ExecutionContext& context) const;

  /// Overwrites d_x, which may alias d_y; adds to the scale's gradient.
  void backward_rotated(const RotaryPositions& positions, const Tensor& d_y, const Tensor& x,
                        const Tensor& inv_rms, Tensor d_x, ExecutionContext& context) const;

  const Tensor& scale() const { return scale_->value; }
  /// The norm of x [1, width], formed where it is read.
  RowInput of_row(const Tensor& x) const {
    return {.x = x, .scale = scale_->value, .epsilon = epsilon_};
  }

 private:
  Parameter* scale_;
  double epsilon_;
};

}  // namespace polymoe
