// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm_cuda.h"

#include <cuda_runtime.h>

#include "kernels/activation/poly_norm_cuda_row.cuh"
#include "kernels/activation/poly_norm_cuda_rows.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/cuda/row_blocks.cuh"
#include "kernels/cuda/row_shape.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

// A row lies in the registers of its threads, held_vectors each: one warp's (a block then works on
// several rows side by side) or a whole block's.
template <class T, int order, int held_vectors>
__global__ void __launch_bounds__(RowShape::max_threads)
    held_forward(const __grid_constant__ RowBlocks blocks, const PolyNormRows<T> rows,
                 int row_threads) {
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

// Rows of any width and alignment: a block per row, read twice (the second time from cache).
template <class T, int order>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_forward(const __grid_constant__ RowBlocks blocks, const PolyNormRows<T> rows) {
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
void launch_forward(const RowShape& shape, const RowBlocks& blocks, const PolyNormRows<T>& rows,
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

}  // namespace

void poly_norm_rows_forward(const PolyNorm& norm, const Tensor& x, const Tensor& coefficients,
                            const std::vector<std::int64_t>& group_offsets, const Tensor& y,
                            Stream& stream) {
  if (x.elements() == 0) return;
  with_real(x.dtype(), [&]<class T>(T) {
    PolyNormRows<T> rows = poly_norm_rows<T>(norm, x, coefficients);
    rows.out = static_cast<T*>(y.raw());
    const RowShape shape(x.dim(1), Vector<T>::size, in_vectors<T>(x.dim(1), {x.raw(), y.raw()}));
    for_each_part(groups_of(coefficients, group_offsets), 2 * shape.rows_at_once(),
                  [&](const RowBlocks& blocks, std::int64_t first_group) {
                    PolyNormRows<T> part = rows;
                    part.coefficients += first_group * rows.set_stride;
                    with_order(norm.order, [&](auto order) {
                      launch_forward<T, order.value>(shape, blocks, part,
                                                     static_cast<cudaStream_t>(stream.native()));
                    });
                  });
  });
}

}  // namespace polymoe::cuda
