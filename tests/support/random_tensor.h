// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/tensor.h"

namespace polymoe::test {

/// How random values are spread: mean + deviation * standard normal.
struct Normal {
  double mean = 0.0;
  double deviation = 1.0;
};

/// On the CPU, f32, f64 or bf16. The values are a function of (name, seed) and the element's index;
/// the narrower tensors hold the f64 one's values rounded.
OwnedTensor random_tensor(const Shape& shape, DType dtype, std::string_view name,
                          Normal distribution = {}, std::uint64_t seed = 1);

/// Every byte 0xff: NaN in floating-point types, -1 in integers. For outputs before a call.
OwnedTensor poisoned_tensor(const Shape& shape, DType dtype);

/// Holds `values` converted to `dtype` (f32, f64, bf16, i32 or i64); their count must match the
/// shape.
OwnedTensor tensor_of(const Shape& shape, DType dtype, const std::vector<double>& values);

/// The elements of an f32, f64, bf16, i32 or i64 tensor.
std::vector<double> values_of(const Tensor& tensor);

/// A copy in another floating-point type.
OwnedTensor converted(const Tensor& tensor, DType dtype);

}  // namespace polymoe::test
