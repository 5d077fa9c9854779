// SPDX-License-Identifier: Apache-2.0
#include "kernels/reduction/reduction_backends.h"

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduction/reduction_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class D>
HWY_INLINE hn::Vec<D> load_f64(D, const double* p, std::int64_t count) {
  return load(D(), p, count);
}
template <class D>
HWY_INLINE hn::Vec<D> load_f64(D d, const float* p, std::int64_t count) {
  return hn::PromoteTo(d, load(hn::Rebind<float, D>(), p, count));
}

// Two accumulators hide the latency of the addition.
template <bool squared, class T>
double block_sum(const T* x, std::int64_t count) {
  const hn::ScalableTag<double> d;
  const std::int64_t step = lanes(d);
  const auto accumulate = [](auto v, auto total) HWY_ATTR {
    return squared ? hn::MulAdd(v, v, total) : hn::Add(v, total);
  };
  auto even = hn::Zero(d), odd = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    even = accumulate(load_f64(d, x + i, step), even);
    odd = accumulate(load_f64(d, x + i + step, step), odd);
  }
  for (; i < count; i += step) even = accumulate(load_f64(d, x + i, count - i), even);
  return sum_of_lanes(d, hn::Add(even, odd));
}

template <class T>
double plain_sum(const T* x, std::int64_t count) {
  return block_sum<false>(x, count);
}
template <class T>
double squared_sum(const T* x, std::int64_t count) {
  return block_sum<true>(x, count);
}
POLYMOE_REAL_VERSIONS(sum, plain_sum);
POLYMOE_REAL_VERSIONS(sum_of_squares, squared_sum);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {
namespace {

POLYMOE_DISPATCH_REAL(sum)
POLYMOE_DISPATCH_REAL(sum_of_squares)

template <class T, class BlockSum>
void reduce(const Tensor& x, std::int64_t elements_per_block, const Tensor& partials,
            const Tensor& result, BlockSum&& block_sum) {
  const T* values = x.data<T>();
  const std::int64_t count = x.elements(), blocks = partials.elements();
  double* sums = partials.data<double>();
#pragma omp parallel for schedule(static)
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t first = block * elements_per_block;
    sums[block] = block_sum(values + first, std::min(elements_per_block, count - first));
  }
  double total = 0.0;
  for (std::int64_t block = 0; block < blocks; ++block) total += sums[block];
  result.data<double>()[0] = total;
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void sum(CpuBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
         Tensor result, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::reduce<T>(x, elements_per_block, partials, result,
                   [](const T* values, std::int64_t count) { return cpu::sum<T>(values, count); });
  });
}

void sum_of_squares(CpuBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
                    Tensor result, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::reduce<T>(
        x, elements_per_block, partials, result,
        [](const T* values, std::int64_t count) { return cpu::sum_of_squares<T>(values, count); });
  });
}

void add(CpuBackend, const Tensor& x, Tensor y, Stream&) {
  const std::int64_t count = x.elements();
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    const T* from = x.data<T>();
    T* to = y.data<T>();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
  });
}

void fill(CpuBackend, double value, Tensor y, Stream&) {
  const std::int64_t count = y.elements();
  cpu::with_real(y.dtype(), [&]<class T>(T) {
    T* to = y.data<T>();
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(value);
  });
}

}  // namespace polymoe::detail
#endif
