// SPDX-License-Identifier: Apache-2.0
#include "kernels/random_normal/random_normal_backends.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/random_normal/random_normal.h"
#include "runtime/dtype.h"
#include "runtime/float16.h"
#include "runtime/random.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cpu {
namespace {

template <class Store>
void draw_each(const RandomStream& random, const NormalDraw& draw, std::int64_t count,
               const Store& store) {
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint64_t>(draw.first + i);
    const double z = draw.truncation > 0.0 ? random.truncated_normal(index, draw.truncation)
                                           : random.normal(index);
    store(i, draw.scale * z);
  }
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void random_normal(CpuBackend, const RandomStream& random, const NormalDraw& draw, Tensor y,
                   Stream&) {
  const auto each = [&](const auto& store) { cpu::draw_each(random, draw, y.elements(), store); };
  switch (y.dtype()) {
    case DType::f32:
      return each([to = y.data<float>()](std::int64_t i, double value) {
        to[i] = static_cast<float>(value);
      });
    case DType::f64:
      return each([to = y.data<double>()](std::int64_t i, double value) { to[i] = value; });
    default:
      return each([to = static_cast<std::uint16_t*>(y.raw())](std::int64_t i, double value) {
        to[i] = bf16_of_float(static_cast<float>(value));
      });
  }
}

}  // namespace polymoe::detail
