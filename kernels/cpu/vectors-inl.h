// SPDX-License-Identifier: Apache-2.0
// Loads and stores of rows whose length need not be a multiple of the vector's. Included once per
// instruction set by Highway's foreach_target.h, hence the unusual guard.
#if defined(POLYMOE_KERNELS_CPU_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#undef POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#else
#define POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE std::int64_t lanes(D d) {
  return static_cast<std::int64_t>(hn::Lanes(d));
}

/// The first min(count, lanes) elements from p on, `rest` in the lanes beyond them.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* p, std::int64_t count,
                           hn::TFromD<D> rest = 0) {
  if (HWY_LIKELY(count >= lanes(d))) return hn::LoadU(d, p);
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(count));
  return hn::IfThenElse(mask, hn::MaskedLoad(mask, d, p), hn::Set(d, rest));
}

/// Stores the first min(count, lanes) lanes.
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, hn::TFromD<D>* p, std::int64_t count) {
  if (HWY_LIKELY(count >= lanes(d))) return hn::StoreU(v, d, p);
  hn::BlendedStore(v, hn::FirstN(d, static_cast<std::size_t>(count)), d, p);
}

template <class D>
HWY_INLINE hn::TFromD<D> sum_of_lanes(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
