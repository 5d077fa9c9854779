// SPDX-License-Identifier: Apache-2.0
// Walks rows whose length need not be a multiple of the vector's: loads, stores, sums. Included
// once per instruction set by Highway's foreach_target.h, hence the unusual guard.
#if defined(POLYMOE_KERNELS_CPU_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#undef POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#else
#define POLYMOE_KERNELS_CPU_VECTORS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

// Marks the lambdas that hold a loop's body: not inlined, their sums would live in memory.
#undef POLYMOE_VECTOR_LAMBDA
#define POLYMOE_VECTOR_LAMBDA HWY_ATTR __attribute__((always_inline))

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

/// How many of a vector's elements exist: all, or the first `count` at the end of a row.
struct AllLanes {};
struct FirstLanes {
  std::size_t count;
};

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* from, AllLanes) {
  return hn::LoadU(d, from);
}

/// Elements that do not exist are zero: they add nothing to any sum.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* from, FirstLanes lanes) {
  HWY_ALIGN hn::TFromD<D> buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, from, lanes.count * sizeof(hn::TFromD<D>));
  return hn::Load(d, buffer);
}

/// Past the caches where `streaming`; see can_stream().
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, hn::TFromD<D>* to, AllLanes, bool streaming) {
  if (streaming) {
    hn::Stream(v, d, to);
  } else {
    hn::StoreU(v, d, to);
  }
}

template <class D>
HWY_INLINE void store(hn::Vec<D> v, D d, hn::TFromD<D>* to, FirstLanes lanes, bool) {
  HWY_ALIGN hn::TFromD<D> buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  std::memcpy(to, buffer, lanes.count * sizeof(hn::TFromD<D>));
}

/// Whether every row from `begin` on, `stride` elements apart, can be written by streaming stores.
template <class D>
HWY_INLINE bool can_stream(D d, bool wanted, const hn::TFromD<D>* begin, std::int64_t stride) {
  const std::size_t bytes = hn::Lanes(d) * sizeof(hn::TFromD<D>);
  return wanted && reinterpret_cast<std::uintptr_t>(begin) % bytes == 0 &&
         static_cast<std::size_t>(stride) * sizeof(hn::TFromD<D>) % bytes == 0;
}

/// body(i, lanes) for the vectors that start at element i of a row.
template <class D, class Body>
HWY_INLINE void for_each_vector(D d, std::int64_t width, const Body& body) {
  const std::size_t end = static_cast<std::size_t>(width), step = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + step <= end; i += step) body(i, AllLanes{});
  if (i < end) body(i, FirstLanes{end - i});
}

}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
