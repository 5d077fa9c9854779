// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y = x weight^T, without a bias. Declares "NAME.weight" [outputs, inputs].
class Linear {
 public:
  struct Extents {
    std::int64_t outputs = 0;
    std::int64_t inputs = 0;
  };

  Linear(ParameterStore& store, const std::string& name, const Extents& extents,
         const Initializer& initializer);

  /// x [rows, inputs], y [rows, outputs]; overwrites y.
  void forward(const Tensor& x, Tensor y, ExecutionContext& context) const;

  /// d_x (+)= d_y weight; weight's gradient += d_y^T x.
  ///
  /// d_y [rows, outputs]; x, d_x [rows, inputs]; d_x may alias neither
  void backward(const Tensor& d_y, const Tensor& x, Write write, Tensor d_x,
                ExecutionContext& context) const;

  const Tensor& weight() const { return weight_->value; }

 private:
  Parameter* weight_;
};

}  // namespace polymoe
