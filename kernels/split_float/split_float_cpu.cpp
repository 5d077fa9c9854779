// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/split_float/split_float_backends.h"
#include "runtime/float16.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void split_floats(CpuBackend, const Tensor& x, Tensor high, Tensor low, Stream&) {
  const auto* from = x.data<float>();
  auto* upper = static_cast<std::uint16_t*>(high.raw());
  auto* lower = static_cast<std::uint16_t*>(low.raw());
  const std::int64_t count = x.elements();
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const SplitFloat parts = split_float(from[i]);
    upper[i] = parts.high;
    if (lower != nullptr) lower[i] = parts.low;
  }
}

}  // namespace polymoe::detail
