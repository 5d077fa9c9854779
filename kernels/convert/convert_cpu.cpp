// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert/convert_backends.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/backend.h"
#include "runtime/dtype.h"
#include "runtime/float16.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cpu {
namespace {

// Both operands of a task stay within the first-level caches' reach, and a task outweighs its
// start.
constexpr std::int64_t elements_per_task = 16384;

// bf16 values are their patterns here.
using Bf16 = std::uint16_t;

template <class To, class From>
To converted(From value) {
  return static_cast<To>(value);
}
template <>
Bf16 converted<Bf16, float>(float value) {
  return bf16_of_float(value);
}
template <>
float converted<float, Bf16>(Bf16 value) {
  return float_of_bf16(value);
}

// Calls operation(T{}) with the type that holds the dtype, which is floating.
template <class Operation>
void with_floating(DType dtype, Operation&& operation) {
  if (dtype == DType::f32) {
    operation(float{});
  } else if (dtype == DType::f64) {
    operation(double{});
  } else {
    operation(Bf16{});
  }
}

// f64 and bf16 do not meet: a value rounded twice would not be the nearest.
template <class From, class To>
constexpr bool is_pair =
    std::is_same_v<From, To> || std::is_same_v<From, float> || std::is_same_v<To, float>;

template <class From, class To>
void convert_elements(const From* x, To* y, std::int64_t count) {
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < count; begin += elements_per_task) {
    const std::int64_t end = std::min(begin + elements_per_task, count);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = converted<To>(x[i]);
  }
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void convert(CpuBackend, const Tensor& x, Tensor y, Stream&) {
  cpu::with_floating(x.dtype(), [&]<class From>(From) {
    cpu::with_floating(y.dtype(), [&]<class To>(To) {
      if constexpr (cpu::is_pair<From, To>) {
        cpu::convert_elements(static_cast<const From*>(x.raw()), static_cast<To*>(y.raw()),
                              x.elements());
      }
    });
  });
}

}  // namespace polymoe::detail
