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

/// Throws InvalidArgument unless `tensor` is given, has `rank` dimensions and is f32 or f64. For
/// the argument that an operation takes its sizes and dtype from, before they are used.
void check_real(const char* operation, const char* name, const Tensor& tensor, int rank);

}  // namespace polymoe
