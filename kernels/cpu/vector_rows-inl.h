// SPDX-License-Identifier: Apache-2.0
// Walks rows by vectors. Included once per instruction set.
#include <hwy/highway.h>

#if defined(POLYMOE_KERNELS_CPU_VECTOR_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_VECTOR_ROWS_INL_H_
#undef POLYMOE_KERNELS_CPU_VECTOR_ROWS_INL_H_
#else
#define POLYMOE_KERNELS_CPU_VECTOR_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

// Of the lambdas that hold a loop's body: without inlining, their sums would live in memory.
#undef POLYMOE_VECTOR_LAMBDA
#define POLYMOE_VECTOR_LAMBDA HWY_ATTR __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// How many of a vector's elements exist: all, or the first `count` at the end of a row.
struct AllLanes {};
struct FirstLanes {
  std::size_t count;
};

template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load(D d, const T* from, AllLanes) {
  return hn::LoadU(d, from);
}

// Elements that do not exist are zero: they add nothing to any sum.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load(D d, const T* from, FirstLanes lanes) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)] = {};
  std::memcpy(buffer, from, lanes.count * sizeof(T));
  return hn::Load(d, buffer);
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store(D d, hn::Vec<D> value, T* to, AllLanes, bool streaming) {
  if (streaming) {
    hn::Stream(value, d, to);
  } else {
    hn::StoreU(value, d, to);
  }
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store(D d, hn::Vec<D> value, T* to, FirstLanes lanes, bool) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  hn::Store(value, d, buffer);
  std::memcpy(to, buffer, lanes.count * sizeof(T));
}

// Whether every row from `begin` on, `stride` elements apart, can be written by streaming stores.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE bool can_stream(D d, bool wanted, const T* begin, std::int64_t stride) {
  const std::size_t bytes = hn::Lanes(d) * sizeof(T);
  return wanted && reinterpret_cast<std::uintptr_t>(begin) % bytes == 0 &&
         static_cast<std::size_t>(stride) * sizeof(T) % bytes == 0;
}

// body(i, lanes) for the vectors that start at element i of a row.
template <class D, class Body>
HWY_INLINE void for_each_vector(D d, std::int64_t width, const Body& body) {
  const std::size_t end = static_cast<std::size_t>(width), step = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + step <= end; i += step) body(i, AllLanes{});
  if (i < end) body(i, FirstLanes{end - i});
}

template <class D>
HWY_INLINE double sum_of_lanes(D d, hn::Vec<D> value) {
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, value)));
}

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // POLYMOE_KERNELS_CPU_VECTOR_ROWS_INL_H_
