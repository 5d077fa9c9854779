// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <string>

#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {

/// One tensor argument of an operation with what is expected of it.
struct TensorCheck {
  const char* name;
  const Tensor& tensor;
  Shape shape;
  DType dtype;
};

/// Throws InvalidArgument naming operation, argument, found and expected, unless every tensor has
/// its shape and dtype and lies on `device`.
void check_tensors(const char* operation, Device device, std::initializer_list<TensorCheck> checks);

/// Throws InvalidArgument unless `tensor` is given, has `rank` dimensions and a dtype that kernels
/// compute in where it lies: f32 or f64 on the CPU, f32 or bf16 on CUDA, any of them on meta. For
/// the argument that an operation takes its sizes and dtype from, before they are used.
void check_real(const char* operation, const char* name, const Tensor& tensor, int rank);

/// Dtype of statistics, coefficients and accumulated gradients beside tensors of `dtype`: f32 for
/// bf16, else the same.
DType accumulation_dtype(DType dtype);

/// What the gradient of a weight has to be of beside tensors of `dtype`: accumulation_dtype(dtype),
/// or bf16 beside bf16 where it is that, and is rounded once by every operation that adds to it.
DType weight_gradient_dtype(const Tensor& gradient, DType dtype);

/// Throws InvalidArgument where the tensor is bf16: for what is f32 beside bf16 tensors too.
void check_full_precision(const char* operation, const char* name, const Tensor& tensor);

}  // namespace polymoe
