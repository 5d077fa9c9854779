// SPDX-License-Identifier: Apache-2.0
// Loads and stores of bf16 rows as vectors of f32, and of 16 bits each. Included once per
// instruction set by Highway's foreach_target.h, hence the unusual guard.
#if defined(POLYMOE_KERNELS_CPU_BF16_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_BF16_VECTORS_INL_H_
#undef POLYMOE_KERNELS_CPU_BF16_VECTORS_INL_H_
#else
#define POLYMOE_KERNELS_CPU_BF16_VECTORS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {

/// The first min(count, lanes) of p, widened; 0 in the lanes beyond them. Wide: of u32.
template <class Wide>
HWY_INLINE hn::Vec<Wide> load_halves(Wide wide, const std::uint16_t* p, std::int64_t count) {
  const hn::Rebind<std::uint16_t, Wide> narrow;
  if (HWY_LIKELY(count >= lanes(wide))) return hn::PromoteTo(wide, hn::LoadU(narrow, p));
  // Not every instruction set masks loads and stores of 16 bits.
  HWY_ALIGN std::uint16_t whole[hn::MaxLanes(narrow)] = {};
  std::copy_n(p, count, whole);
  return hn::PromoteTo(wide, hn::Load(narrow, whole));
}

/// Stores the lower halves of the first min(count, lanes) lanes; the upper ones are zero.
template <class Wide>
HWY_INLINE void store_halves(hn::Vec<Wide> v, Wide wide, std::uint16_t* p, std::int64_t count) {
  const hn::Rebind<std::uint16_t, Wide> narrow;
  const auto halves = hn::TruncateTo(narrow, v);
  if (HWY_LIKELY(count >= lanes(wide))) return hn::StoreU(halves, narrow, p);
  HWY_ALIGN std::uint16_t whole[hn::MaxLanes(narrow)];
  hn::Store(halves, narrow, whole);
  std::copy_n(whole, count, p);
}

/// The values of the first min(count, lanes) bf16 patterns from p on, 0 in the lanes beyond them.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const std::uint16_t* p, std::int64_t count) {
  const hn::RebindToUnsigned<D> wide;
  return hn::BitCast(d, hn::ShiftLeft<16>(load_halves(wide, p, count)));
}

/// Stores the first min(count, lanes) lanes as the nearest bf16 values, ties to even; NaN stays
/// NaN.
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D, std::uint16_t* p, std::int64_t count) {
  const hn::RebindToUnsigned<D> wide;
  const auto bits = hn::BitCast(wide, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(wide, 1u));
  const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(wide, 0x7fffu)));
  // Rounding could carry a NaN's pattern into infinity's; the quiet bit keeps it one.
  const auto quiet = hn::Or(bits, hn::Set(wide, 0x400000u));
  const auto rounded = hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(v)), quiet, nearest);
  store_halves(hn::ShiftRight<16>(rounded), wide, p, count);
}

}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
