// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm_cuda.h"

#include <cuda_runtime.h>

#include "kernels/activation/poly_norm_cuda_plan.h"
#include "kernels/activation/poly_norm_cuda_row.cuh"
#include "kernels/cuda/device/copies.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

// Writes the block's sums of the threads that hold some; one per row worked on side by side.
template <int n>
__device__ void write_partial_sums(const double (&totals)[n], bool has_total, int slot, int slots,
                                   double* partial_sums) {
  __shared__ double shared[RowShape::max_threads / warp_size][n];
  if (has_total) {
#pragma unroll
    for (int i = 0; i < n; ++i) shared[slot][i] = totals[i];
  }
  __syncthreads();
  if (threadIdx.x < n) {
    double sum = 0.0;
    for (int s = 0; s < slots; ++s) sum += shared[s][threadIdx.x];
    partial_sums[std::int64_t{blockIdx.x} * n + threadIdx.x] = sum;
  }
}

// One vector's share of the row's sums: even powers, then gradient powers.
template <class T, int order>
__device__ void add_powers(const PolyNormRows<T>& rows, uint4 x, uint4 d_y,
                           float (&sums)[2 * order + 1]) {
  using V = Vector<T>;
  float values[V::size], g[V::size];
  V::unpack(x, values);
  V::unpack(d_y, g);
#pragma unroll
  for (int j = 0; j < V::size; ++j) {
    const float t = rows.inner(values[j]);
    add_even_powers<DeviceMath, order>(t, sums);
    add_gradient_powers<DeviceMath, order>(t, g[j], sums + order);
  }
}

// What the second pass leaves of one vector, the i-th of its row.
template <class T, int order>
__device__ void write_results(const PolyNormRows<T>& rows, const Gradient<order>& gradient,
                              std::int64_t row, int i, uint4 x, uint4 d_y) {
  using V = Vector<T>;
  float values[V::size], results[V::size];
  V::unpack(x, values);
  if (rows.y != nullptr) {
#pragma unroll
    for (int j = 0; j < V::size; ++j) results[j] = gradient.value_at(rows.inner(values[j]));
    __stcs(reinterpret_cast<uint4*>(rows.y + row * rows.width) + i, V::pack(results));
  }
  V::unpack(d_y, results);
#pragma unroll
  for (int j = 0; j < V::size; ++j) {
    results[j] =
        gradient.gradient_at(rows.inner(values[j]), rows.inner_slope(values[j]), results[j]);
  }
  __stcs(reinterpret_cast<uint4*>(rows.d_x + row * rows.width) + i, V::pack(results));
}

// The row's share of the sums over rows, by one thread of it.
template <class T, int order>
__device__ void finish_row(const PolyNormRows<T>& rows, const Gradient<order>& gradient,
                           std::int64_t row, double (&totals)[order + 1]) {
#pragma unroll
  for (int p = 0; p <= order; ++p) totals[p] += gradient.d_a[p];
  if (rows.d_row_weights != nullptr) rows.d_row_weights[row] = gradient.d_scale;
}

// Each thread copies its vectors of x and d_y into its own places of shared memory, the next row's
// while it works on one: loads are always under way, and few registers are held across the sums.
template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    staged_backward(const __grid_constant__ RowBlocks blocks, const PolyNormRows<T> rows,
                    int row_threads, int held_vectors) {
  using V = Vector<T>;
  constexpr int n = 2 * order + 1;
  __shared__ typename BlockSum<n>::Storage storage;
  extern __shared__ uint4 staged[];  // [2, held_vectors, x and d_y, threads]
  BlockSum<n> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const bool one_warp = row_threads == warp_size;
  const int thread = threadIdx.x % row_threads, vectors = rows.width / V::size;
  const int slot = threadIdx.x / row_threads, slots = blockDim.x / row_threads;
  const int threads = blockDim.x, stage_size = 2 * held_vectors * threads;
  const DeviceMath::Count width(rows.width);
  const float* a = rows.coefficients + span.group * rows.set_stride;
  // Places beyond the row's end stay zero and add nothing to the sums.
  for (int k = 0; k < 4 * held_vectors; ++k) staged[k * threads + threadIdx.x] = {0, 0, 0, 0};
  const auto copy_row = [&](std::int64_t row, uint4* stage) {
    const uint4* x = reinterpret_cast<const uint4*>(rows.x + row * rows.width);
    const uint4* d_y = reinterpret_cast<const uint4*>(rows.d_y + row * rows.width);
    for (int i = thread; i < vectors; i += row_threads, stage += 2 * threads) {
      copy_async(stage, x + i);
      copy_async(stage + threads, d_y + i);
    }
  };
  uint4* stage = staged + threadIdx.x;
  uint4* next_stage = stage + stage_size;
  double totals[order + 1] = {};
  if (span.begin + slot < span.end) copy_row(span.begin + slot, stage);
  commit_copies();
  for (std::int64_t row = span.begin + slot; row < span.end; row += slots) {
    if (row + slots < span.end) copy_row(row + slots, next_stage);
    commit_copies();
    wait_for_copies<1>();
    const float weight = rows.weight_of(row);
    float sums[n] = {};  // even powers, then gradient powers
#pragma unroll 2
    for (int k = 0; k < held_vectors; ++k) {
      add_powers<T, order>(rows, load_shared(stage + 2 * k * threads),
                           load_shared(stage + (2 * k + 1) * threads), sums);
    }
    if (one_warp)
      sum_over_warp(sums);
    else
      sum_over_block(sums);
    const Gradient<order> gradient(a, sums, sums + order, width, rows.epsilon, weight);
    if (thread == 0) finish_row(rows, gradient, row, totals);
#pragma unroll 2
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      if (i >= vectors) break;
      write_results(rows, gradient, row, i, load_shared(stage + 2 * k * threads),
                    load_shared(stage + (2 * k + 1) * threads));
    }
    uint4* const done = stage;
    stage = next_stage;
    next_stage = done;
  }
  write_partial_sums(totals, thread == 0, slot, slots, rows.partial_sums);
}

// A block a row, on Hopper: the copies are one instruction a row instead of one a vector. While the
// block works on a row the next ones are on their way, one less than there are stages.
template <class T, int order, int stages>
__global__ void __launch_bounds__(RowShape::max_threads)
    bulk_backward(const __grid_constant__ RowBlocks blocks, const PolyNormRows<T> rows) {
#if __CUDA_ARCH__ >= 900
  constexpr int n = 2 * order + 1;
  __shared__ typename BlockSum<n>::Storage storage;
  __shared__ Barrier full[stages];
  extern __shared__ uint4 staged[];  // [stages, x and d_y, vectors]
  BlockSum<n> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const int vectors = rows.width / Vector<T>::size;
  const DeviceMath::Count width(rows.width);
  const float* a = rows.coefficients + span.group * rows.set_stride;
  if (threadIdx.x == 0) {
    for (Barrier& barrier : full) make_barrier(barrier, 1);
    seal_barriers();
  }
  __syncthreads();
  const auto copy_row = [&](std::int64_t row, int stage) {
    const auto bytes = static_cast<std::uint32_t>(vectors * sizeof(uint4));
    uint4* to = staged + 2 * stage * vectors;
    arrive_and_expect(full[stage], 2 * bytes);
    copy_bulk(to, rows.x + row * rows.width, bytes, full[stage]);
    copy_bulk(to + vectors, rows.d_y + row * rows.width, bytes, full[stage]);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages - 1; ++s) {
      if (span.begin + s < span.end) copy_row(span.begin + s, s);
    }
  }
  double totals[order + 1] = {};
  int stage = 0;
  std::uint32_t parity = 0;
  for (std::int64_t row = span.begin; row < span.end; ++row) {
    const uint4* x = staged + 2 * stage * vectors;
    const uint4* d_y = x + vectors;
    const float weight = rows.weight_of(row);
    wait_for_phase(full[stage], parity);
    float sums[n] = {};
#pragma unroll 1
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
      add_powers<T, order>(rows, load_shared(x + i), load_shared(d_y + i), sums);
    }
    sum_over_block(sums);
    // Every thread has left the row before, whose place is free now.
    const std::int64_t next = row + stages - 1;
    if (threadIdx.x == 0 && next < span.end) copy_row(next, (stage + stages - 1) % stages);
    const Gradient<order> gradient(a, sums, sums + order, width, rows.epsilon, weight);
    if (threadIdx.x == 0) finish_row(rows, gradient, row, totals);
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
      write_results(rows, gradient, row, i, load_shared(x + i), load_shared(d_y + i));
    }
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  write_partial_sums(totals, threadIdx.x == 0, 0, 1, rows.partial_sums);
#else
  __trap();  // has_bulk_copies() is false of this code
#endif
}

// Whether the code that this device runs, which may be older than the device, has bulk_backward.
template <class T>
bool has_bulk_copies() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(bulk_backward<T, 3, 2>)),
        "cudaFuncGetAttributes");
  return attributes.ptxVersion >= 90;
}

// Rows of any width and alignment: a block per row, read twice (the second time from cache).
template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_backward(const __grid_constant__ RowBlocks blocks, const PolyNormRows<T> rows) {
  constexpr int n = 2 * order + 1;
  __shared__ typename BlockSum<n>::Storage storage;
  BlockSum<n> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const float* a = rows.coefficients + span.group * rows.set_stride;
  const DeviceMath::Count width(rows.width);
  double totals[order + 1] = {};
  for (std::int64_t row = span.begin; row < span.end; ++row) {
    const T* x = rows.x + row * rows.width;
    const T* d_y = rows.d_y + row * rows.width;
    T* d_x = rows.d_x + row * rows.width;
    T* y = rows.y == nullptr ? nullptr : rows.y + row * rows.width;
    float sums[n] = {};
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      const float t = rows.inner(to_float(x[i]));
      add_even_powers<DeviceMath, order>(t, sums);
      add_gradient_powers<DeviceMath, order>(t, to_float(d_y[i]), sums + order);
    }
    sum_over_block(sums);
    const Gradient<order> gradient(a, sums, sums + order, width, rows.epsilon, rows.weight_of(row));
    if (threadIdx.x == 0) finish_row(rows, gradient, row, totals);
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      const float value = to_float(x[i]), t = rows.inner(value), g = to_float(d_y[i]);
      if (y != nullptr) y[i] = from_float<T>(gradient.value_at(t));
      d_x[i] = from_float<T>(gradient.gradient_at(t, rows.inner_slope(value), g));
    }
  }
  write_partial_sums(totals, threadIdx.x == 0, 0, 1, rows.partial_sums);
}

template <class T, int order>
void launch_backward(const PolyNormBackwardPlan& plan, const RowBlocks& blocks,
                     const PolyNormRows<T>& rows, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks.count());
  const auto threads = static_cast<unsigned>(plan.shape.block_threads);
  const auto with_shared = [&](const void* kernel) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(plan.staged_bytes)),
          "cudaFuncSetAttribute");
  };
  switch (plan.copies) {
    case PolyNormBackwardPlan::Copies::none:
      any_backward<T, order><<<grid, threads, 0, stream>>>(blocks, rows);
      break;
    case PolyNormBackwardPlan::Copies::by_vector:
      with_shared(reinterpret_cast<const void*>(staged_backward<T, order>));
      staged_backward<T, order><<<grid, threads, plan.staged_bytes, stream>>>(
          blocks, rows, plan.shape.row_threads, plan.shape.held_vectors);
      break;
    case PolyNormBackwardPlan::Copies::by_row:
      if (plan.stages == 3) {
        with_shared(reinterpret_cast<const void*>(bulk_backward<T, order, 3>));
        bulk_backward<T, order, 3><<<grid, threads, plan.staged_bytes, stream>>>(blocks, rows);
      } else {
        with_shared(reinterpret_cast<const void*>(bulk_backward<T, order, 2>));
        bulk_backward<T, order, 2><<<grid, threads, plan.staged_bytes, stream>>>(blocks, rows);
      }
      break;
  }
  check_launch("poly_norm_backward");
}

}  // namespace

void poly_norm_backward(const Activation& activation, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, const ActivationGradients& gradients,
                        const Tensor& partial_sums, Stream& stream) {
  with_real(x.dtype(), [&]<class T>(T) {
    const PolyNormRows<T> rows(
        backward_rows<T>(activation, d_y, x, coefficients, row_weights, gradients, partial_sums),
        activation);
    const PolyNormBackwardPlan plan(x, Vector<T>::size, rows.in_vectors, has_bulk_copies<T>());
    for_each_part(rows, coefficients, group_offsets, plan.rows_per_block, gradients.d_coefficients,
                  stream, [&](const RowBlocks& blocks, const PolyNormRows<T>& part) {
                    with_order(activation.order, [&](auto order) {
                      launch_backward<T, order.value>(plan, blocks, part, native(stream));
                    });
                  });
  });
}

}  // namespace polymoe::cuda
