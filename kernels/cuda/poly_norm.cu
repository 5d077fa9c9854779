// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/poly_norm.h"

#include <cuda_runtime.h>

#include <limits>

#include "kernels/cuda/poly_norm_plan.h"
#include "kernels/cuda/poly_norm_row.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/cuda/row_blocks.cuh"
#include "kernels/cuda/row_shape.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

template <class T>
struct Rows {
  const T* x;
  const T* d_y;  // backward
  T* out;        // y or d_x
  const float* coefficients;
  std::int64_t set_stride;  // between the groups' coefficients; 0 for one set
  double* partial_sums;     // backward: [blocks, order + 1]
  int width;
  float floor;
  float epsilon;
  std::uint32_t zero;  // of unpack_again()
};

// A row lies in the registers of its threads, held_vectors each: one warp's (a block then works on
// several rows side by side) or a whole block's.
template <class T, int order, int held_vectors>
__global__ void __launch_bounds__(RowShape::max_threads)
    held_forward(const __grid_constant__ RowBlocks blocks, const Rows<T> rows, int row_threads) {
  using V = Vector<T>;
  __shared__ typename BlockSum<order>::Storage storage;
  BlockSum<order> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const bool one_warp = row_threads == warp_size;
  const int thread = threadIdx.x % row_threads, vectors = rows.width / V::size;
  const float inverse_width = 1.0F / static_cast<float>(rows.width);
  const float* a = rows.coefficients + span.group * rows.set_stride;
  for (std::int64_t row = span.begin + threadIdx.x / row_threads; row < span.end;
       row += blockDim.x / row_threads) {
    const uint4* x = reinterpret_cast<const uint4*>(rows.x + row * rows.width);
    uint4* y = reinterpret_cast<uint4*>(rows.out + row * rows.width);
    uint4 held[held_vectors];
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      held[k] = i < vectors ? __ldcs(x + i) : uint4{0, 0, 0, 0};  // zeros add nothing to the sums
    }
    float sums[order] = {};
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      float values[V::size];
      V::unpack(held[k], values);
#pragma unroll
      for (const float value : values) add_even_powers<order>(max_or_nan(value, rows.floor), sums);
    }
    if (one_warp)
      sum_over_warp(sums);
    else
      sum_over_block(sums);
    const std::uint32_t zero = __float_as_uint(sums[0]) & rows.zero;
    float value[order + 1];
    value_coefficients<order>(a, sums, inverse_width, rows.epsilon, value);
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      float values[V::size];
      unpack_again(held[k], zero);
      V::unpack(held[k], values);
#pragma unroll
      for (float& v : values) v = polynomial<order>(value, max_or_nan(v, rows.floor));
      if (i < vectors) __stcs(y + i, V::pack(values));
    }
  }
}

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

// Each thread copies its vectors of x and d_y into its own places of shared memory, the next row's
// while it works on one: loads are always under way, and few registers are held across the sums.
template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    staged_backward(const __grid_constant__ RowBlocks blocks, const Rows<T> rows, int row_threads,
                    int held_vectors) {
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
  const float inverse_width = 1.0F / static_cast<float>(rows.width);
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
    float sums[n] = {};  // even powers, then gradient powers
#pragma unroll 2
    for (int k = 0; k < held_vectors; ++k) {
      float values[V::size], g[V::size];
      V::unpack(load_shared(stage + 2 * k * threads), values);
      V::unpack(load_shared(stage + (2 * k + 1) * threads), g);
#pragma unroll
      for (int j = 0; j < V::size; ++j) {
        const float t = max_or_nan(values[j], rows.floor);
        add_even_powers<order>(t, sums);
        add_gradient_powers<order>(t, g[j], sums + order);
      }
    }
    if (one_warp)
      sum_over_warp(sums);
    else
      sum_over_block(sums);
    const Gradient<order> gradient(a, sums, sums + order, inverse_width, rows.epsilon);
    if (thread == 0) {
#pragma unroll
      for (int p = 0; p <= order; ++p) totals[p] += gradient.d_a[p];
    }
    uint4* d_x = reinterpret_cast<uint4*>(rows.out + row * rows.width);
#pragma unroll 2
    for (int k = 0; k < held_vectors; ++k) {
      float values[V::size], g[V::size];
      V::unpack(load_shared(stage + 2 * k * threads), values);
      V::unpack(load_shared(stage + (2 * k + 1) * threads), g);
#pragma unroll
      for (int j = 0; j < V::size; ++j) {
        const float result = gradient(max_or_nan(values[j], rows.floor), g[j]);
        values[j] = values[j] <= rows.floor ? 0.0F : result;
      }
      const int i = thread + k * row_threads;
      if (i < vectors) __stcs(d_x + i, V::pack(values));
    }
    uint4* const done = stage;
    stage = next_stage;
    next_stage = done;
  }
  write_partial_sums(totals, thread == 0, slot, slots, rows.partial_sums);
}

// Rows of any width and alignment: a block per row, read twice (the second time from cache).
template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_forward(const __grid_constant__ RowBlocks blocks, const Rows<T> rows) {
  __shared__ typename BlockSum<order>::Storage storage;
  BlockSum<order> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const float* a = rows.coefficients + span.group * rows.set_stride;
  const float inverse_width = 1.0F / static_cast<float>(rows.width);
  for (std::int64_t row = span.begin; row < span.end; ++row) {
    const T* x = rows.x + row * rows.width;
    T* y = rows.out + row * rows.width;
    float sums[order] = {};
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      add_even_powers<order>(max_or_nan(to_float(x[i]), rows.floor), sums);
    }
    sum_over_block(sums);
    float value[order + 1];
    value_coefficients<order>(a, sums, inverse_width, rows.epsilon, value);
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      y[i] = from_float<T>(polynomial<order>(value, max_or_nan(to_float(x[i]), rows.floor)));
    }
  }
}

template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_backward(const __grid_constant__ RowBlocks blocks, const Rows<T> rows) {
  constexpr int n = 2 * order + 1;
  __shared__ typename BlockSum<n>::Storage storage;
  BlockSum<n> sum_over_block(storage);
  const RowBlocks::Span span = blocks[blockIdx.x];
  const float* a = rows.coefficients + span.group * rows.set_stride;
  const float inverse_width = 1.0F / static_cast<float>(rows.width);
  double totals[order + 1] = {};
  for (std::int64_t row = span.begin; row < span.end; ++row) {
    const T* x = rows.x + row * rows.width;
    const T* d_y = rows.d_y + row * rows.width;
    T* d_x = rows.out + row * rows.width;
    float sums[n] = {};
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      const float t = max_or_nan(to_float(x[i]), rows.floor);
      add_even_powers<order>(t, sums);
      add_gradient_powers<order>(t, to_float(d_y[i]), sums + order);
    }
    sum_over_block(sums);
    const Gradient<order> gradient(a, sums, sums + order, inverse_width, rows.epsilon);
    for (int p = 0; p <= order; ++p) totals[p] += gradient.d_a[p];
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      const float value = to_float(x[i]);
      const float result = gradient(max_or_nan(value, rows.floor), to_float(d_y[i]));
      d_x[i] = from_float<T>(value <= rows.floor ? 0.0F : result);
    }
  }
  write_partial_sums(totals, threadIdx.x == 0, 0, 1, rows.partial_sums);
}

template <class T, int order>
void launch_forward(const RowShape& shape, const RowBlocks& blocks, const Rows<T>& rows,
                    cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks.count());
  if (shape.held_vectors == 0) {
    any_forward<T, order><<<grid, shape.block_threads, 0, stream>>>(blocks, rows);
  } else {
    shape.with_held_vectors([&](auto held) {
      held_forward<T, order, held.value>
          <<<grid, shape.block_threads, 0, stream>>>(blocks, rows, shape.row_threads);
    });
  }
  check_launch("poly_norm_forward");
}

template <class T, int order>
void launch_backward(const RowShape& shape, const RowBlocks& blocks, const Rows<T>& rows,
                     cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks.count());
  if (shape.held_vectors == 0) {
    any_backward<T, order><<<grid, shape.block_threads, 0, stream>>>(blocks, rows);
  } else {
    const std::size_t bytes = poly_norm_staged_bytes(shape);
    check(
        cudaFuncSetAttribute(staged_backward<T, order>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
    staged_backward<T, order><<<grid, shape.block_threads, bytes, stream>>>(
        blocks, rows, shape.row_threads, shape.held_vectors);
  }
  check_launch("poly_norm_backward");
}

template <class Operation>
void with_order(int order, Operation&& operation) {
  if (order == 2)
    operation(std::integral_constant<int, 2>{});
  else if (order == 3)
    operation(std::integral_constant<int, 3>{});
  else
    operation(std::integral_constant<int, 4>{});
}

// One set of coefficients makes one group of all rows.
std::vector<std::int64_t> groups_of(const Tensor& coefficients,
                                    const std::vector<std::int64_t>& offsets) {
  if (coefficients.dim(0) == 1) return {offsets.front(), offsets.back()};
  return offsets;
}

template <class T>
Rows<T> rows_of(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients) {
  Rows<T> rows{};
  rows.x = static_cast<const T*>(x.raw());
  rows.coefficients = coefficients.data<float>();
  rows.set_stride = norm.order + 1;
  rows.width = static_cast<int>(x.dim(1));
  rows.floor = norm.rectified ? 0.0F : -std::numeric_limits<float>::infinity();
  rows.epsilon = static_cast<float>(norm.epsilon);
  return rows;
}

}  // namespace

void poly_norm_rows_forward(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients,
                            const std::vector<std::int64_t>& group_offsets, const Tensor& y,
                            Stream& stream) {
  if (x.elements() == 0) return;
  with_real(x.dtype(), [&]<class T>(T) {
    Rows<T> rows = rows_of<T>(norm, x, coefficients);
    rows.out = static_cast<T*>(y.raw());
    const RowShape shape(x.dim(1), Vector<T>::size, in_vectors<T>(x.dim(1), {x.raw(), y.raw()}));
    for_each_part(groups_of(coefficients, group_offsets), 2 * shape.rows_at_once(),
                  [&](const RowBlocks& blocks, std::int64_t first_group) {
                    Rows<T> part = rows;
                    part.coefficients += first_group * rows.set_stride;
                    with_order(norm.order, [&](auto order) {
                      launch_forward<T, order.value>(shape, blocks, part,
                                                     static_cast<cudaStream_t>(stream.native()));
                    });
                  });
  });
}

void poly_norm_rows_backward(const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                             const Tensor& coefficients,
                             const std::vector<std::int64_t>& group_offsets, const Tensor& d_x,
                             const Tensor& d_coefficients, const Tensor& partial_sums,
                             Stream& stream) {
  if (x.elements() == 0) return;
  with_real(x.dtype(), [&]<class T>(T) {
    Rows<T> rows = rows_of<T>(norm, x, coefficients);
    rows.d_y = static_cast<const T*>(d_y.raw());
    rows.out = static_cast<T*>(d_x.raw());
    rows.partial_sums = partial_sums.data<double>();
    const PolyNormBackwardPlan plan(x, Vector<T>::size,
                                    in_vectors<T>(x.dim(1), {x.raw(), d_y.raw(), d_x.raw()}));
    for_each_part(groups_of(coefficients, group_offsets), plan.rows_per_block,
                  [&](const RowBlocks& blocks, std::int64_t first_group) {
                    Rows<T> part = rows;
                    part.coefficients += first_group * rows.set_stride;
                    with_order(norm.order, [&](auto order) {
                      launch_backward<T, order.value>(plan.shape, blocks, part,
                                                      static_cast<cudaStream_t>(stream.native()));
                    });
                    add_partial_sums(blocks, part.partial_sums, norm.order + 1,
                                     d_coefficients.data<float>() + first_group * rows.set_stride,
                                     stream);
                  });
  });
}

}  // namespace polymoe::cuda

namespace polymoe::detail {

void poly_norm_forward(CudaBackend, const PolyNorm& norm, const Tensor& x,
                       const Tensor& coefficients, Tensor y, Stream& stream) {
  cuda::poly_norm_rows_forward(norm, x, coefficients.view({1, coefficients.elements()}),
                               {0, x.dim(0)}, y, stream);
}

void poly_norm_backward(CudaBackend, const PolyNorm& norm, const Tensor& d_y, const Tensor& x,
                        const Tensor& coefficients, Tensor d_x, Tensor d_coefficients,
                        const Tensor& partial_sums, Stream& stream) {
  const Shape one_set{1, coefficients.elements()};
  cuda::poly_norm_rows_backward(norm, d_y, x, coefficients.view(one_set), {0, x.dim(0)}, d_x,
                                d_coefficients.view(one_set), partial_sums, stream);
}

}  // namespace polymoe::detail
