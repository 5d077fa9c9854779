// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw.h"

#include <cstddef>
#include <string>

#include "kernels/adamw/adamw_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, OptimizerState state,
           Tensor low, Stream& stream) {
  if (step.step < 1) {
    throw InvalidArgument("adamw: step is " + std::to_string(step.step) + ", expected at least 1");
  }
  if (!low.defined()) check_real("adamw", "parameter", parameter, parameter.shape().rank());
  // Equal element counts are enough: the operation is element by element.
  const Shape flat{parameter.elements()};
  const auto flatten = [](Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.view({tensor.elements()});
  };
  Tensor own_gradient = gradient;
  for (Tensor* tensor : {&own_gradient, &parameter, &low}) flatten(*tensor);
  for (Tensor& tensor : state) flatten(tensor);
  const DType dtype = low.defined() ? DType::f32 : parameter.dtype();
  if (dtype == DType::bf16) {
    throw InvalidArgument("adamw: parameter is bf16, expected its lower bits beside it, or f32");
  }
  const auto may_be_narrow = [&](const Tensor& tensor) {
    return tensor.dtype() == DType::bf16 && dtype == DType::f32 ? DType::bf16 : dtype;
  };
  const bool on_cpu = stream.device().type == DeviceType::cpu;
  check_tensors("adamw", stream.device(),
                {{"parameter", parameter, flat, low.defined() ? DType::bf16 : dtype},
                 {"gradient", own_gradient, flat, on_cpu ? dtype : may_be_narrow(own_gradient)}});
  for (std::size_t i = 0; i < state.size(); ++i) {
    const std::string name(optimizer_state_kinds[i].substr(0, optimizer_state_kinds[i].find('/')));
    check_tensors("adamw", stream.device(),
                  {{name.c_str(), state[i], flat, may_be_narrow(state[0])}});
  }
  if (low.defined()) check_tensors("adamw", stream.device(), {{"low", low, flat, DType::u16}});
  dispatch(stream.device(), [&](auto backend) {
    detail::adamw(backend, step, own_gradient, parameter, state, low, stream);
  });
}

}  // namespace polymoe
