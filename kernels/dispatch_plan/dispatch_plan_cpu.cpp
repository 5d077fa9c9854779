// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/dispatch_plan_backends.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

struct Slots {
  const std::int32_t* ids;  // [count] expert of each slot
  std::int32_t* rows;       // [count] -1 = dropped; any other value = kept, until rows are known
  std::int64_t count;
  std::int64_t experts;
  std::int32_t first_id = 0;  // of the experts

  std::int64_t expert(std::int64_t s) const { return ids[s] - first_id; }
};

// Keeps the first `capacity` slots of each expert. taken [experts] is scratch.
void drop_by_position(const Slots& segment, std::int64_t capacity, std::int64_t* taken) {
  std::fill_n(taken, segment.experts, std::int64_t{0});
  for (std::int64_t s = 0; s < segment.count; ++s) {
    const bool wanted = segment.ids[s] >= 0;
    segment.rows[s] = wanted && taken[segment.ids[s]]++ < capacity ? 0 : -1;
  }
}

// Keeps the `capacity` slots of each expert with the largest weights. begins [experts + 1] and
// sorted [count] are scratch.
template <class T>
void drop_by_probability(const Slots& segment, const T* weights, std::int64_t capacity,
                         std::int64_t* begins, std::int32_t* sorted) {
  std::fill_n(begins, segment.experts + 1, std::int64_t{0});
  for (std::int64_t s = 0; s < segment.count; ++s) {
    segment.rows[s] = -1;
    if (segment.ids[s] >= 0) ++begins[segment.ids[s] + 1];
  }
  for (std::int64_t e = 0; e < segment.experts; ++e) begins[e + 1] += begins[e];
  for (std::int64_t s = 0; s < segment.count; ++s) {
    if (segment.ids[s] < 0) continue;
    sorted[begins[segment.ids[s]]++] = static_cast<std::int32_t>(s);
  }
  // Filling moved every begin to the next expert's.
  for (std::int64_t e = 0; e < segment.experts; ++e) {
    std::int32_t* first = sorted + (e == 0 ? 0 : begins[e - 1]);
    std::int32_t* last = sorted + begins[e];
    std::int32_t* end_of_kept = last - first > capacity ? first + capacity : last;
    if (end_of_kept != last) {
      // NaN sorts last: the order stays a strict weak one.
      const auto larger = [&](std::int32_t a, std::int32_t b) {
        const bool a_real = !std::isnan(weights[a]), b_real = !std::isnan(weights[b]);
        if (a_real != b_real) return a_real;
        if (a_real && weights[a] != weights[b]) return weights[a] > weights[b];
        return a < b;
      };
      std::nth_element(first, end_of_kept, last, larger);
    }
    for (std::int32_t* s = first; s != end_of_kept; ++s) segment.rows[*s] = 0;
  }
}

void drop_beyond_capacity(const Slots& slots, const Tensor& weights, const ExpertCapacity& capacity,
                          std::int64_t top_k, const DispatchPlanScratch& scratch) {
  const std::int64_t segment_slots = capacity.segment_tokens * top_k;
  const std::int64_t segments = scratch.segment_begins.dim(0);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < segments; ++i) {
    const std::int64_t begin = i * segment_slots;
    const Slots segment{slots.ids + begin, slots.rows + begin, segment_slots, slots.experts};
    std::int64_t* begins = scratch.segment_begins.data<std::int64_t>() + i * (slots.experts + 1);
    if (capacity.policy == DropPolicy::position) {
      drop_by_position(segment, capacity.slots, begins);
      continue;
    }
    cpu::with_real(weights.dtype(), [&](auto zero) {
      drop_by_probability(segment, weights.data<decltype(zero)>() + begin, capacity.slots, begins,
                          scratch.sorted_slots.data<std::int32_t>() + begin);
    });
  }
}

// Keeps the slots of the experts there are.
void keep_in_range(const Slots& slots) {
#pragma omp parallel for schedule(static)
  for (std::int64_t s = 0; s < slots.count; ++s) {
    const std::int64_t expert = slots.expert(s);
    slots.rows[s] = expert >= 0 && expert < slots.experts ? 0 : -1;
  }
}

// Rows of the kept slots: stable by expert.
void sort_kept(const Slots& slots, const DispatchPlanScratch& scratch, const Tensor& counts,
               const Tensor& row_slots) {
  const std::int64_t experts = slots.experts, chunks = omp_get_max_threads();
  auto* chunk_rows = scratch.chunk_rows.data<std::int64_t>();
  const auto chunk_begin = [&](std::int64_t chunk) { return slots.count * chunk / chunks; };
#pragma omp parallel for schedule(static)
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::int64_t* rows = chunk_rows + chunk * experts;
    std::fill_n(rows, experts, std::int64_t{0});
    for (std::int64_t s = chunk_begin(chunk); s < chunk_begin(chunk + 1); ++s) {
      if (slots.rows[s] < 0) continue;
      assert(slots.expert(s) >= 0 && slots.expert(s) < experts);
      ++rows[slots.expert(s)];
    }
  }
  // From counts to the first row of each (expert, chunk).
  std::int64_t next = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t first = next;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t rows = chunk_rows[chunk * experts + e];
      chunk_rows[chunk * experts + e] = next;
      next += rows;
    }
    counts.data<std::int64_t>()[e] = next - first;
  }
  auto* out = row_slots.data<std::int32_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::int64_t* rows = chunk_rows + chunk * experts;
    for (std::int64_t s = chunk_begin(chunk); s < chunk_begin(chunk + 1); ++s) {
      if (slots.rows[s] < 0) continue;
      const std::int64_t row = rows[slots.expert(s)]++;
      slots.rows[s] = static_cast<std::int32_t>(row);
      out[row] = static_cast<std::int32_t>(s);
    }
  }
  std::fill(out + next, out + slots.count, -1);
}

// Adds r to y in the order of the list; the first row is copied unless y is accumulated.
template <class T>
void add_rows(const T* const* rows, std::int64_t count, bool accumulate, std::int64_t width, T* y) {
  std::int64_t i = 0;
  if (!accumulate) {
    if (count == 0) {
      std::fill_n(y, width, T{0});
      return;
    }
    if (count == 1) {
      std::copy_n(rows[0], width, y);
      return;
    }
    const T *a = rows[0], *b = rows[1];
    for (std::int64_t c = 0; c < width; ++c) y[c] = a[c] + b[c];
    i = 2;
  }
  for (; i + 2 <= count; i += 2) {
    const T *a = rows[i], *b = rows[i + 1];
    for (std::int64_t c = 0; c < width; ++c) y[c] = y[c] + a[c] + b[c];
  }
  if (i < count) {
    const T* a = rows[i];
    for (std::int64_t c = 0; c < width; ++c) y[c] += a[c];
  }
}

template <class T>
void sum_rows_of(const Tensor& rows, const Tensor& slot_rows, Write write, const Tensor& y) {
  constexpr std::int64_t block = 8;  // rows added at a time; more than that go round again
  const std::int64_t width = rows.dim(1), tokens = slot_rows.dim(0), k = slot_rows.dim(1);
  const T* data = rows.data<T>();
  const auto* slots = slot_rows.data<std::int32_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::array<const T*, block> kept;
    std::int64_t count = 0;
    bool accumulate = write == Write::accumulate;
    T* out = y.data<T>() + t * width;
    for (std::int64_t j = 0; j < k; ++j) {
      const std::int64_t row = slots[t * k + j];
      if (row < 0) continue;
      assert(row < rows.dim(0));
      kept[static_cast<std::size_t>(count++)] = data + row * width;
      if (count == block) {
        add_rows(kept.data(), count, accumulate, width, out);
        accumulate = true;
        count = 0;
      }
    }
    if (count > 0 || !accumulate) add_rows(kept.data(), count, accumulate, width, out);
  }
}

}  // namespace

std::int64_t dispatch_plan_cuda_chunks(std::int64_t slots) {
  constexpr std::int64_t least_chunk_slots = 512, most_chunks = 512;
  return std::clamp<std::int64_t>(divide_up(slots, least_chunk_slots), 1, most_chunks);
}

std::int64_t dispatch_plan_chunks(std::int64_t slots) {
  return std::max<std::int64_t>(omp_get_max_threads(), dispatch_plan_cuda_chunks(slots));
}

void dispatch_plan(CpuBackend, const Tensor& expert_ids, const Tensor& weights,
                   const ExpertCapacity& capacity, Tensor counts, Tensor row_slots,
                   Tensor slot_rows, const DispatchPlanScratch& scratch, Stream&) {
  const Slots slots{expert_ids.data<std::int32_t>(), slot_rows.data<std::int32_t>(),
                    expert_ids.elements(), counts.dim(0)};
  if (capacity.slots > 0) {
    drop_beyond_capacity(slots, weights, capacity, expert_ids.dim(1), scratch);
  } else {
    keep_in_range(slots);
  }
  sort_kept(slots, scratch, counts, row_slots);
}

void group_slots(CpuBackend, const Tensor& ids, std::int64_t first, Tensor counts, Tensor row_slots,
                 Tensor slot_rows, const DispatchPlanScratch& scratch, Stream&) {
  const Slots slots{ids.data<std::int32_t>(), slot_rows.data<std::int32_t>(), ids.elements(),
                    counts.dim(0), static_cast<std::int32_t>(first)};
  keep_in_range(slots);
  sort_kept(slots, scratch, counts, row_slots);
}

void gather_rows(CpuBackend, const Tensor& x, const Tensor& more, const Tensor& indices,
                 std::int64_t divisor, Tensor out, Stream&) {
  const std::int64_t rows = indices.dim(0), first_of_more = x.dim(0);
  const std::size_t width = x.shape().rank() == 1 ? 1 : static_cast<std::size_t>(x.dim(1));
  const std::size_t bytes = width * size_of(x.dtype());
  const auto* index = indices.data<std::int32_t>();
  const auto* from = static_cast<const std::byte*>(x.raw());
  const auto* from_more = static_cast<const std::byte*>(more.defined() ? more.raw() : nullptr);
  auto* to = static_cast<std::byte*>(out.raw());
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row = index[r] / divisor;
    assert(index[r] >= 0 && row < first_of_more + (more.defined() ? more.dim(0) : 0));
    const std::byte* source =
        row < first_of_more ? from + static_cast<std::size_t>(row) * bytes
                            : from_more + static_cast<std::size_t>(row - first_of_more) * bytes;
    std::memcpy(to + static_cast<std::size_t>(r) * bytes, source, bytes);
  }
}

void scatter_rows(CpuBackend, const Tensor& x, const Tensor& slot_rows, Tensor out, Stream&) {
  const std::int64_t tokens = x.dim(0), top_k = slot_rows.dim(1);
  const std::size_t bytes = static_cast<std::size_t>(x.dim(1)) * size_of(x.dtype());
  const auto* rows = slot_rows.data<std::int32_t>();
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(out.raw());
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t j = 0; j < top_k; ++j) {
      const std::int32_t row = rows[t * top_k + j];
      if (row < 0) continue;
      assert(row < out.dim(0));
      std::memcpy(to + static_cast<std::size_t>(row) * bytes,
                  from + static_cast<std::size_t>(t) * bytes, bytes);
    }
  }
}

void sum_rows(CpuBackend, const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y,
              Stream&) {
  cpu::with_real(rows.dtype(),
                 [&](auto zero) { sum_rows_of<decltype(zero)>(rows, slot_rows, write, y); });
}

}  // namespace polymoe::detail
