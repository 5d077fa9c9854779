// SPDX-License-Identifier: Apache-2.0
#include "runtime/copy.h"

#include <cstring>
#include <string>

#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void copy(const Tensor& from, Tensor to, Stream& stream) {
  if (from.elements() != to.elements() || from.dtype() != to.dtype()) {
    throw InvalidArgument(std::string("copy of ") + name_of(from.dtype()) + " " +
                          to_string(from.shape()) + " to " + name_of(to.dtype()) + " " +
                          to_string(to.shape()));
  }
  const auto on = [&](DeviceType type) {
    return from.device().type == type || to.device().type == type;
  };
  if (on(DeviceType::meta) || from.bytes() == 0) return;
  if (on(DeviceType::cuda)) {
    const auto submit = [&] { cuda::copy(to.raw(), from.raw(), from.bytes(), stream.native()); };
    if (to.device().type == DeviceType::cpu)
      stream.count_wait(submit);  // returns when the copy is there
    else
      submit();
  } else {
    std::memcpy(to.raw(), from.raw(), from.bytes());
  }
}

void set_zero(Tensor tensor, Stream& stream) {
  if (tensor.device().type == DeviceType::meta || tensor.bytes() == 0) return;
  if (tensor.device().type == DeviceType::cuda) {
    cuda::fill_bytes(tensor.raw(), 0, tensor.bytes(), stream.native());
  } else {
    std::memset(tensor.raw(), 0, tensor.bytes());
  }
}

}  // namespace polymoe
