// SPDX-License-Identifier: Apache-2.0
// The pieces of a row's softmax. Included once per instruction set by Highway's foreach_target.h,
// hence the unusual guard.
#if defined(POLYMOE_KERNELS_CPU_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_SOFTMAX_INL_H_
#undef POLYMOE_KERNELS_CPU_SOFTMAX_INL_H_
#else
#define POLYMOE_KERNELS_CPU_SOFTMAX_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>

#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {

/// exp(x). Highway's own gives 0 for NaN, which would hide it.
template <class D>
HWY_INLINE hn::Vec<D> exponential(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

/// The largest of `count` elements; the lowest finite value where there are none.
template <class T>
HWY_INLINE T maximum_of(const T* x, std::int64_t count) {
  const hn::ScalableTag<T> d;
  const T lowest = hwy::LowestValue<T>();
  auto result = hn::Set(d, lowest);
  for (std::int64_t i = 0; i < count; i += lanes(d)) {
    result = hn::Max(result, load(d, x + i, count - i, lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(d, result));
}

/// x = exp(scale x - shift); returns the sum.
template <class T>
HWY_INLINE T exponentials(T scale, T shift, T* x, std::int64_t count) {
  const hn::ScalableTag<T> d;
  const auto factor = hn::Set(d, scale), offset = hn::Set(d, shift);
  auto sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes(d) <= count; i += lanes(d)) {
    const auto p = exponential(d, hn::MulSub(hn::LoadU(d, x + i), factor, offset));
    hn::StoreU(p, d, x + i);
    sum = hn::Add(sum, p);
  }
  if (i < count) {
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(count - i));
    const auto p = exponential(d, hn::MulSub(load(d, x + i, count - i), factor, offset));
    store(p, d, x + i, count - i);
    sum = hn::Add(sum, hn::IfThenElseZero(mask, p));
  }
  return sum_of_lanes(d, sum);
}

}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
