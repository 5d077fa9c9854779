// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm_cuda.h"

#include <cuda_runtime.h>

#include "kernels/activation/poly_norm_cuda_row.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
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
  let_next_begin();
  wait_for_previous();
  const RowBlocks::Span span = blocks[blockIdx.x];
  const bool one_warp = row_threads == warp_size;
  const int thread = threadIdx.x % row_threads, vectors = rows.width / V::size;
  const DeviceMath::Count width(rows.width);
  const float* a = rows.coefficients + span.group * rows.set_stride;
  for (std::int64_t row = span.begin + threadIdx.x / row_threads; row < span.end;
       row += blockDim.x / row_threads) {
    const uint4* x = reinterpret_cast<const uint4*>(rows.x + row * rows.width);
    uint4* y = reinterpret_cast<uint4*>(rows.y + row * rows.width);
    uint4 held[held_vectors];
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      held[k] = i < vectors ? __ldcs(x + i) : uint4{0, 0, 0, 0};  // zeros add nothing to the sums
    }
    const float weight = rows.weight_of(row);
    float sums[order] = {};
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      float values[V::size];
      V::unpack(held[k], values);
#pragma unroll
      for (const float value : values) add_even_powers<DeviceMath, order>(rows.inner(value), sums);
    }
    if (one_warp)
      sum_over_warp(sums);
    else
      sum_over_block(sums);
    const std::uint32_t zero = __float_as_uint(sums[0]) & rows.zero;
    const Value<order> value(a, sums, width, rows.epsilon, weight);
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      float values[V::size];
      unpack_again(held[k], zero);
      V::unpack(held[k], values);
#pragma unroll
      for (float& v : values) v = value.value_at(rows.inner(v));
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
  let_next_begin();
  wait_for_previous();
  const RowBlocks::Span span = blocks[blockIdx.x];
  const float* a = rows.coefficients + span.group * rows.set_stride;
  const DeviceMath::Count width(rows.width);
  for (std::int64_t row = span.begin; row < span.end; ++row) {
    const T* x = rows.x + row * rows.width;
    T* y = rows.y + row * rows.width;
    float sums[order] = {};
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      add_even_powers<DeviceMath, order>(rows.inner(to_float(x[i])), sums);
    }
    sum_over_block(sums);
    const Value<order> value(a, sums, width, rows.epsilon, rows.weight_of(row));
    for (int i = threadIdx.x; i < rows.width; i += blockDim.x) {
      y[i] = from_float<T>(value.value_at(rows.inner(to_float(x[i]))));
    }
  }
}

template <class T, int order>
void launch_forward(const RowShape& shape, const RowBlocks& blocks, const PolyNormRows<T>& rows,
                    cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks.count());
  if (shape.held_vectors == 0) {
    launch_early_if_few<&any_forward<T, order>>(grid, shape.block_threads, 0, stream, blocks, rows);
  } else {
    shape.with_held_vectors([&](auto held) {
      launch_early_if_few<&held_forward<T, order, held.value>>(grid, shape.block_threads, 0, stream,
                                                               blocks, rows, shape.row_threads);
    });
  }
  check_launch("poly_norm_forward");
}

}  // namespace

void poly_norm_forward(const Activation& activation, const Tensor& x, const Tensor& coefficients,
                       const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                       const Tensor& y, Stream& stream) {
  with_real(x.dtype(), [&]<class T>(T) {
    const PolyNormRows<T> rows(forward_rows<T>(activation, x, coefficients, row_weights, y),
                               activation);
    const RowShape shape(rows.width, Vector<T>::size, rows.in_vectors);
    for_each_part(rows, coefficients, group_offsets, 2 * shape.rows_at_once(), Tensor(), stream,
                  [&](const RowBlocks& blocks, const PolyNormRows<T>& part) {
                    with_order(activation.order, [&](auto order) {
                      launch_forward<T, order.value>(shape, blocks, part, native(stream));
                    });
                  });
  });
}

}  // namespace polymoe::cuda
