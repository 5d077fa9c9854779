// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/dispatch_plan_backends.h"

#include <algorithm>
#include <string>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/rounding.h"

namespace polymoe::detail {
namespace {

using cuda::warp_size;
using cuda::whole_warp;

constexpr std::int64_t most_experts = 4096;  // their counters live in 48 KiB of shared memory
constexpr int scan_threads = 1024;
constexpr int select_threads = 512;
constexpr int mark_threads = 256;

struct Slots {
  const std::int32_t* ids;  // [count] expert of each slot
  std::int32_t* rows;       // [count] -1 = dropped, until rows are known
  std::int64_t count;
  int experts;
  std::int32_t first_id = 0;  // of the experts
};

__device__ unsigned lanes_below() { return (1u << (threadIdx.x % warp_size)) - 1; }

// One warp walks slots [begin, end) in order and calls act(slot, place) for each that `keeps`,
// where place is taken[its expert], which then moves on by one.
template <class Keeps, class Act>
__device__ void for_slots_in_order(const Slots& slots, std::int64_t begin, std::int64_t end,
                                   int* taken, const Keeps& keeps, const Act& act) {
  const int lane = static_cast<int>(threadIdx.x);
  for (std::int64_t first = begin; first < end; first += warp_size) {
    const std::int64_t s = first + lane;
    const bool wanted = s < end && keeps(s);
    const int expert =
        wanted ? slots.ids[s] - slots.first_id : slots.experts;  // the last counter is nobody's
    const unsigned same = __match_any_sync(whole_warp, expert);
    const int before = __popc(same & lanes_below());
    const int place = taken[expert] + before;
    __syncwarp();
    if (before == 0) taken[expert] += __popc(same);
    __syncwarp();
    if (wanted) act(s, place);
  }
}

__device__ void clear(int* values, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    values[i] = 0;
  }
  __syncthreads();
}

// One warp per segment.
__global__ void drop_by_position(Slots slots, std::int64_t segment_slots, std::int64_t capacity) {
  extern __shared__ int taken[];
  clear(taken, slots.experts + 1);
  const std::int64_t begin = blockIdx.x * segment_slots;
  for_slots_in_order(
      slots, begin, begin + segment_slots, taken, [&](std::int64_t s) { return slots.ids[s] >= 0; },
      [&](std::int64_t s, int place) { slots.rows[s] = place < capacity ? 0 : -1; });
}

// One block per (expert, segment): finds the capacity-th largest weight bit by bit, keeps what is
// larger, and of the equal ones the first.
__global__ void drop_by_probability(Slots slots, const float* weights, std::int64_t segment_slots,
                                    std::int64_t capacity) {
  __shared__ int histogram[256];
  __shared__ unsigned threshold;
  __shared__ std::int64_t wanted;
  __shared__ int kept_in_warp[select_threads / warp_size];
  const int expert = static_cast<int>(blockIdx.x);
  const std::int64_t begin = blockIdx.y * segment_slots, end = begin + segment_slots;
  if (threadIdx.x == 0) {
    threshold = 0;
    wanted = capacity;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    clear(histogram, 256);
    const unsigned prefix = threshold;
    for (std::int64_t s = begin + threadIdx.x; s < end; s += select_threads) {
      if (slots.ids[s] != expert) continue;
      const unsigned key = cuda::ordered_bits(weights[s]);
      const bool in_prefix = shift == 24 || (key >> (shift + 8)) == (prefix >> (shift + 8));
      if (in_prefix) atomicAdd(&histogram[(key >> shift) & 255u], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      for (; digit > 0 && histogram[digit] < wanted; --digit) wanted -= histogram[digit];
      threshold |= static_cast<unsigned>(digit) << shift;
    }
    __syncthreads();
  }
  // `wanted` of the slots at the threshold itself are kept, in order.
  const unsigned limit = threshold;
  std::int64_t equal_before = 0;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  for (std::int64_t first = begin; first < end; first += select_threads) {
    const std::int64_t s = first + threadIdx.x;
    const bool mine = s < end && slots.ids[s] == expert;
    const unsigned key = mine ? cuda::ordered_bits(weights[s]) : 0u;
    const bool equal = mine && key == limit;
    const unsigned votes = __ballot_sync(whole_warp, equal);
    if (threadIdx.x % warp_size == 0) kept_in_warp[warp] = __popc(votes);
    __syncthreads();
    std::int64_t place = equal_before + __popc(votes & lanes_below());
    for (int i = 0; i < select_threads / warp_size; ++i) {
      if (i < warp) place += kept_in_warp[i];
      equal_before += kept_in_warp[i];
    }
    if (mine) slots.rows[s] = key > limit || (equal && place < wanted) ? 0 : -1;
    __syncthreads();
  }
}

// One warp per chunk.
__global__ void count_chunks(Slots slots, std::int64_t chunk_slots, std::int64_t* chunk_rows) {
  extern __shared__ int taken[];
  clear(taken, slots.experts + 1);
  const std::int64_t begin = blockIdx.x * chunk_slots;
  const std::int64_t end = min(begin + chunk_slots, slots.count);
  for_slots_in_order(
      slots, begin, end, taken, [&](std::int64_t s) { return slots.rows[s] >= 0; },
      [](std::int64_t, int) {});
  for (int e = static_cast<int>(threadIdx.x); e < slots.experts; e += warp_size) {
    chunk_rows[blockIdx.x * static_cast<std::int64_t>(slots.experts) + e] = taken[e];
  }
}

// From counts to the first row of each (expert, chunk): one block, a warp per expert.
__global__ void __launch_bounds__(scan_threads)
    scan_chunks(std::int64_t* chunk_rows, int chunks, int experts, std::int64_t* counts) {
  extern __shared__ std::int64_t first_row[];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  constexpr int warps = scan_threads / warp_size;
  for (int e = warp; e < experts; e += warps) {
    std::int64_t sum = 0;
    for (int c = lane; c < chunks; c += warp_size) {
      sum += chunk_rows[c * static_cast<std::int64_t>(experts) + e];
    }
    sum = cuda::sum_over_warp(sum);
    if (lane == 0) {
      counts[e] = sum;
      first_row[e] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int64_t next = 0;
    for (int e = 0; e < experts; ++e) {
      const std::int64_t rows = first_row[e];
      first_row[e] = next;
      next += rows;
    }
  }
  __syncthreads();
  for (int e = warp; e < experts; e += warps) {
    std::int64_t before = first_row[e];
    for (int first = 0; first < chunks; first += warp_size) {
      const int c = first + lane;
      const std::int64_t place = c * static_cast<std::int64_t>(experts) + e;
      const std::int64_t rows = c < chunks ? chunk_rows[place] : 0;
      std::int64_t sum = rows;
      for (int offset = 1; offset < warp_size; offset *= 2) {
        const std::int64_t lower = __shfl_up_sync(whole_warp, sum, offset);
        if (lane >= offset) sum += lower;
      }
      if (c < chunks) chunk_rows[place] = before + sum - rows;
      before += __shfl_sync(whole_warp, sum, warp_size - 1);
    }
  }
}

// One warp per chunk.
__global__ void place_slots(Slots slots, std::int64_t chunk_slots, const std::int64_t* chunk_rows,
                            std::int32_t* row_slots) {
  extern __shared__ int taken[];
  for (int e = static_cast<int>(threadIdx.x); e <= slots.experts; e += warp_size) {
    const std::int64_t place = blockIdx.x * static_cast<std::int64_t>(slots.experts) + e;
    taken[e] = e < slots.experts ? static_cast<int>(chunk_rows[place]) : 0;
  }
  __syncwarp();
  const std::int64_t begin = blockIdx.x * chunk_slots;
  const std::int64_t end = min(begin + chunk_slots, slots.count);
  for_slots_in_order(
      slots, begin, end, taken, [&](std::int64_t s) { return slots.rows[s] >= 0; },
      [&](std::int64_t s, int row) {
        slots.rows[s] = row;
        row_slots[row] = static_cast<std::int32_t>(s);
      });
}

// Keeps the slots of the experts there are.
__global__ void __launch_bounds__(mark_threads) keep_in_range(Slots slots) {
  const std::int64_t stride = std::int64_t{gridDim.x} * mark_threads;
  for (std::int64_t s = std::int64_t{blockIdx.x} * mark_threads + threadIdx.x; s < slots.count;
       s += stride) {
    const std::int32_t expert = slots.ids[s] - slots.first_id;
    slots.rows[s] = expert >= 0 && expert < slots.experts ? 0 : -1;
  }
}

void check_experts(const char* operation, std::int64_t experts) {
  if (experts <= most_experts) return;
  throw InvalidArgument(std::string(operation) + ": " + std::to_string(experts) +
                        " experts, allowed on CUDA are " + std::to_string(most_experts));
}

// Rows of the kept slots: stable by expert.
void sort_kept(const Slots& slots, const DispatchPlanScratch& scratch, const Tensor& counts,
               const Tensor& row_slots, cudaStream_t native) {
  const std::size_t counters = static_cast<std::size_t>(slots.experts + 1) * sizeof(int);
  const std::int64_t chunks = dispatch_plan_cuda_chunks(slots.count);
  const std::int64_t chunk_slots = divide_up(slots.count, chunks);
  auto* chunk_rows = scratch.chunk_rows.data<std::int64_t>();
  const auto grid = static_cast<unsigned>(chunks);
  count_chunks<<<grid, warp_size, counters, native>>>(slots, chunk_slots, chunk_rows);
  cuda::check_launch("count_chunks");
  scan_chunks<<<1, scan_threads, static_cast<std::size_t>(slots.experts) * sizeof(std::int64_t),
                native>>>(chunk_rows, static_cast<int>(chunks), slots.experts,
                          counts.data<std::int64_t>());
  cuda::check_launch("scan_chunks");
  place_slots<<<grid, warp_size, counters, native>>>(slots, chunk_slots, chunk_rows,
                                                     row_slots.data<std::int32_t>());
  cuda::check_launch("place_slots");
}

}  // namespace

void dispatch_plan(CudaBackend, const Tensor& expert_ids, const Tensor& weights,
                   const ExpertCapacity& capacity, Tensor counts, Tensor row_slots,
                   Tensor slot_rows, const DispatchPlanScratch& scratch, Stream& stream) {
  const std::int64_t experts = counts.dim(0);
  check_experts("dispatch_plan", experts);
  const cudaStream_t native = cuda::native(stream);
  const Slots slots{expert_ids.data<std::int32_t>(), slot_rows.data<std::int32_t>(),
                    expert_ids.elements(), static_cast<int>(experts)};
  const std::size_t counters = static_cast<std::size_t>(experts + 1) * sizeof(int);
  cuda::fill_bytes(row_slots.raw(), 0xff, row_slots.bytes(), native);
  if (slots.count == 0) {
    cuda::fill_bytes(counts.raw(), 0, counts.bytes(), native);
    return;
  }
  if (capacity.slots == 0) {
    keep_in_range<<<cuda::blocks_for(slots.count, mark_threads), mark_threads, 0, native>>>(slots);
    cuda::check_launch("keep_in_range");
  } else {
    cuda::fill_bytes(slot_rows.raw(), 0xff, slot_rows.bytes(), native);  // slots of no expert
    const std::int64_t segment_slots = capacity.segment_tokens * expert_ids.dim(1);
    const auto segments = static_cast<unsigned>(slots.count / segment_slots);
    if (capacity.policy == DropPolicy::position) {
      drop_by_position<<<segments, warp_size, counters, native>>>(slots, segment_slots,
                                                                  capacity.slots);
      cuda::check_launch("drop_by_position");
    } else {
      // The grid's second extent ends at 65535.
      constexpr unsigned most_segments = 65535;
      for (unsigned first = 0; first < segments; first += most_segments) {
        const std::int64_t begin = first * segment_slots;
        const Slots part{slots.ids + begin, slots.rows + begin, slots.count - begin, slots.experts};
        const dim3 grid(static_cast<unsigned>(experts), std::min(segments - first, most_segments));
        drop_by_probability<<<grid, select_threads, 0, native>>>(
            part, weights.data<float>() + begin, segment_slots, capacity.slots);
        cuda::check_launch("drop_by_probability");
      }
    }
  }
  sort_kept(slots, scratch, counts, row_slots, native);
}

void group_slots(CudaBackend, const Tensor& ids, std::int64_t first, Tensor counts,
                 Tensor row_slots, Tensor slot_rows, const DispatchPlanScratch& scratch,
                 Stream& stream) {
  check_experts("group_slots", counts.dim(0));
  const cudaStream_t native = cuda::native(stream);
  const Slots slots{ids.data<std::int32_t>(), slot_rows.data<std::int32_t>(), ids.elements(),
                    static_cast<int>(counts.dim(0)), static_cast<std::int32_t>(first)};
  cuda::fill_bytes(row_slots.raw(), 0xff, row_slots.bytes(), native);
  if (slots.count == 0) {
    cuda::fill_bytes(counts.raw(), 0, counts.bytes(), native);
    return;
  }
  keep_in_range<<<cuda::blocks_for(slots.count, mark_threads), mark_threads, 0, native>>>(slots);
  cuda::check_launch("keep_in_range");
  sort_kept(slots, scratch, counts, row_slots, native);
}

}  // namespace polymoe::detail
