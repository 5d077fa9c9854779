// SPDX-License-Identifier: Apache-2.0
#include "layers/linear.h"

#include <string>

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {

Linear::Linear(ParameterStore& store, const std::string& name, const Extents& extents,
               const Initializer& initializer)
    : weight_(&store.declare(
          dense_parameter(name + ".weight", {extents.outputs, extents.inputs}, initializer))) {}

void Linear::forward(const Tensor& x, Tensor y, ExecutionContext& context) const {
  matmul(x, Transpose::no, weight_->value, Transpose::yes, Write::overwrite, y, context.stream);
}

void Linear::backward(const Tensor& d_y, const Tensor& x, Write write, Tensor d_x,
                      ExecutionContext& context) const {
  matmul(d_y, Transpose::no, weight_->value, Transpose::no, write, d_x, context.stream);
  matmul(d_y, Transpose::yes, x, Transpose::no, Write::accumulate, weight_->gradient,
         context.stream);
}

}  // namespace polymoe
