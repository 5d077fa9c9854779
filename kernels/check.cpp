// SPDX-License-Identifier: Apache-2.0
#include "kernels/check.h"

#include <initializer_list>
#include <string>

#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

bool is_computed_in(DType dtype, DeviceType device) {
  if (dtype == DType::f32) return true;
  if (dtype == DType::f64) return device != DeviceType::cuda;
  return dtype == DType::bf16 && device != DeviceType::cpu;
}

}  // namespace

void check_tensors(const char* operation, Device device,
                   std::initializer_list<TensorCheck> checks) {
  for (const TensorCheck& check : checks) {
    const std::string where = std::string(operation) + ": " + check.name;
    if (!check.tensor.defined()) throw InvalidArgument(where + " is missing");
    if (check.tensor.shape() != check.shape) {
      throw InvalidArgument(where + " has shape " + to_string(check.tensor.shape()) +
                            ", expected " + to_string(check.shape));
    }
    if (check.tensor.dtype() != check.dtype) {
      throw InvalidArgument(where + " is " + name_of(check.tensor.dtype()) + ", expected " +
                            name_of(check.dtype));
    }
    if (check.tensor.device() != device) {
      throw InvalidArgument(where + " lies on " + name_of(check.tensor.device()) + ", expected " +
                            name_of(device));
    }
  }
}

void check_real(const char* operation, const char* name, const Tensor& tensor, int rank) {
  const std::string where = std::string(operation) + ": " + name;
  if (!tensor.defined()) throw InvalidArgument(where + " is missing");
  if (tensor.shape().rank() != rank) {
    throw InvalidArgument(where + " has shape " + to_string(tensor.shape()) + ", expected " +
                          std::to_string(rank) + " dimensions");
  }
  if (!is_computed_in(tensor.dtype(), tensor.device().type)) {
    throw InvalidArgument(where + " is " + name_of(tensor.dtype()) + ", expected f32 or " +
                          (tensor.device().type == DeviceType::cuda ? "bf16" : "f64"));
  }
}

DType accumulation_dtype(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }

DType weight_gradient_dtype(const Tensor& gradient, DType dtype) {
  const bool narrow = dtype == DType::bf16 && gradient.dtype() == DType::bf16;
  return narrow ? DType::bf16 : accumulation_dtype(dtype);
}

void check_full_precision(const char* operation, const char* name, const Tensor& tensor) {
  if (tensor.dtype() != DType::bf16) return;
  throw InvalidArgument(std::string(operation) + ": " + name + " is bf16, expected f32");
}

}  // namespace polymoe
