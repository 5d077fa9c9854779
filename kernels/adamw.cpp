// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/check.h"
#include "kernels/cpu/adamw.h"

namespace polymoe {

void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m, Tensor v,
           Stream& stream) {
  if (step.step < 1) {
    throw InvalidArgument("adamw: step is " + std::to_string(step.step) + ", expected at least 1");
  }
  check_real("adamw", "parameter", parameter, parameter.shape().rank());
  // Equal element counts are enough: the operation is element by element.
  const Shape flat{parameter.elements()};
  const auto flatten = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.view({tensor.elements()}) : tensor;
  };
  const Tensor p = flatten(parameter), g = flatten(gradient), m1 = flatten(m), v1 = flatten(v);
  const DType dtype = parameter.dtype();
  check_tensors("adamw", stream.device(),
                {{"parameter", p, flat, dtype},
                 {"gradient", g, flat, dtype},
                 {"m", m1, flat, dtype},
                 {"v", v1, flat, dtype}});
  dispatch(stream.device(),
           [&](auto backend) { detail::adamw(backend, step, g, p, m1, v1, stream); });
}

}  // namespace polymoe
