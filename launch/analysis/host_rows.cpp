// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/host_rows.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/convert/convert.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {

std::vector<float> host_rows(const Tensor& tensor, ExecutionContext& context) {
  if (tensor.dtype() == DType::f32) return host_values<float>(tensor, context.stream);
  const Arena::Scope scope(context.arena);
  const Tensor wide = context.arena.allocate(tensor.shape(), DType::f32);
  convert(tensor, wide, context.stream);
  return host_values<float>(wide, context.stream);
}

void normalize_rows(std::vector<float>& rows, std::int64_t width) {
  const auto values = static_cast<std::size_t>(width);
  for (std::size_t begin = 0; begin < rows.size(); begin += values) {
    double squares = 0.0;
    for (std::size_t i = begin; i < begin + values; ++i)
      squares += static_cast<double>(rows[i]) * static_cast<double>(rows[i]);
    const double scale = squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0;
    for (std::size_t i = begin; i < begin + values; ++i)
      rows[i] = static_cast<float>(rows[i] * scale);
  }
}

}  // namespace polymoe
