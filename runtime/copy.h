// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// to = from, between any two devices; equal element counts and dtypes. In order on `stream`, which
/// belongs to the GPU side where there is one. Nothing happens where one side is on meta.
/// Host memory written by it may be read after stream.synchronize().
/// Throws InvalidArgument on a mismatch.
void copy(const Tensor& from, Tensor to, Stream& stream);

/// Every byte of the tensor = 0, in order on `stream`; nothing on meta.
void set_zero(Tensor tensor, Stream& stream);

/// The tensor's elements on the host; blocks until they are there. Zeros on meta. T is the dtype's
/// C++ type.
template <class T>
std::vector<T> host_values(const Tensor& tensor, Stream& stream) {
  std::vector<T> values(static_cast<std::size_t>(tensor.elements()));
  copy(tensor, Tensor(values.data(), tensor.shape(), dtype_of<T>(), Device::cpu()), stream);
  stream.synchronize();
  return values;
}

/// tensor = values, in order on `stream`; `values` may change once this returns. Nothing on meta.
/// Throws InvalidArgument unless there are as many as elements.
template <class T>
void set_values(std::span<const T> values, Tensor tensor, Stream& stream) {
  // A Tensor has no const form; the values are only read.
  copy(Tensor(const_cast<T*>(values.data()), {static_cast<std::int64_t>(values.size())},
              dtype_of<T>(), Device::cpu()),
       tensor, stream);
}

}  // namespace polymoe
