// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw.h"

#include "kernels/adamw/adamw_backends.h"
#include "kernels/check.h"

namespace polymoe {

void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m, Tensor v,
           Stream& stream) {
  adamw(step, gradient, parameter, m, v, Tensor{}, stream);
}

void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m, Tensor v,
           Tensor rounded, Stream& stream) {
  if (step.step < 1) {
    throw InvalidArgument("adamw: step is " + std::to_string(step.step) + ", expected at least 1");
  }
  check_real("adamw", "parameter", parameter, parameter.shape().rank());
  // Equal element counts are enough: the operation is element by element.
  const Shape flat{parameter.elements()};
  const auto flatten = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.view({tensor.elements()}) : tensor;
  };
  const Tensor p = flatten(parameter), g = flatten(gradient), m1 = flatten(m), v1 = flatten(v),
               copy = flatten(rounded);
  const DType dtype = parameter.dtype();
  if (dtype == DType::bf16) {
    throw InvalidArgument("adamw: parameter is bf16, expected the f32 master copy");
  }
  const auto may_be_narrow = [&](const Tensor& tensor) {
    return tensor.dtype() == DType::bf16 && dtype == DType::f32 ? DType::bf16 : dtype;
  };
  const bool on_cpu = stream.device().type == DeviceType::cpu;
  check_tensors("adamw", stream.device(),
                {{"parameter", p, flat, dtype},
                 {"gradient", g, flat, on_cpu ? dtype : may_be_narrow(g)},
                 {"m", m1, flat, may_be_narrow(m1)},
                 {"v", v1, flat, may_be_narrow(m1)}});
  if (copy.defined()) {
    check_tensors("adamw", stream.device(),
                  {{"parameter", p, flat, DType::f32}, {"rounded", copy, flat, DType::bf16}});
  }
  dispatch(stream.device(),
           [&](auto backend) { detail::adamw(backend, step, g, p, m1, v1, copy, stream); });
}

}  // namespace polymoe
