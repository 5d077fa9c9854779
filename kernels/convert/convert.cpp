// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert/convert.h"

#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/convert/convert_backends.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

bool is_converted(DType from, DType to, DeviceType device) {
  const auto is_floating = [device](DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 ||
           (dtype == DType::f64 && device != DeviceType::cuda);
  };
  return is_floating(from) && is_floating(to) &&
         (from == to || from == DType::f32 || to == DType::f32);
}

}  // namespace

void convert(const Tensor& x, Tensor y, Stream& stream) {
  const auto flatten = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.view({tensor.elements()}) : tensor;
  };
  const Tensor from = flatten(x), to = flatten(y);
  const Shape flat{x.elements()};
  check_tensors("convert", stream.device(),
                {{"x", from, flat, from.dtype()}, {"y", to, flat, to.dtype()}});
  if (!is_converted(x.dtype(), y.dtype(), stream.device().type)) {
    throw InvalidArgument(std::string("convert: x is ") + name_of(x.dtype()) + " and y is " +
                          name_of(y.dtype()) + " on " + name_of(stream.device()) +
                          ", expected f32 beside f32, bf16 or (not on CUDA) f64, or equal dtypes");
  }
  if (from.elements() == 0) return;
  dispatch(stream.device(), [&](auto backend) { detail::convert(backend, from, to, stream); });
}

}  // namespace polymoe
