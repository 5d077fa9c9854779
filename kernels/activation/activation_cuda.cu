// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_backends.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/activation/activation_cuda_rows.cuh"
#include "kernels/activation/activation_formulas-inl.h"
#include "kernels/activation/poly_norm_cuda.h"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int block_threads = 256, block_warps = block_threads / warp_size;
// Elements of a block, about; a few per thread hide each other's waits.
constexpr std::int64_t block_elements = 16384;

// How a row is taken: by vectors, or element by element where it is not made of them.
template <class T>
struct ByVectors {
  using Piece = uint4;
  static constexpr int size = Vector<T>::size;
  __device__ static Piece load(const T* row, int i) {
    return __ldcs(reinterpret_cast<const uint4*>(row) + i);
  }
  __device__ static void unpack(Piece piece, float (&values)[size]) {
    Vector<T>::unpack(piece, values);
  }
  __device__ static void store(T* row, int i, const float (&values)[size]) {
    __stcs(reinterpret_cast<uint4*>(row) + i, Vector<T>::pack(values));
  }
};
template <class T>
struct ByElements {
  using Piece = T;
  static constexpr int size = 1;
  __device__ static Piece load(const T* row, int i) { return row[i]; }
  __device__ static void unpack(Piece piece, float (&values)[size]) { values[0] = to_float(piece); }
  __device__ static void store(T* row, int i, const float (&values)[size]) {
    row[i] = from_float<T>(values[0]);
  }
};

// A lane takes two pieces of its warp's row at a time, so that enough loads are under way.
constexpr int at_once = 2;

// A row of x is [gate, up] where the formula is gated.
template <class Formula, class Access, class T>
__device__ void forward_row(const ActivationRows<T>& rows, const Formula& formula,
                            std::int64_t row) {
  const float weight = rows.weight_of(row);
  const T* x = rows.x + row * (Formula::gated ? 2 : 1) * rows.width;
  T* y = rows.y + row * rows.width;
  const int pieces = rows.width / Access::size;
  for (int first = threadIdx.x % warp_size; first < pieces; first += at_once * warp_size) {
    typename Access::Piece inputs[at_once], gated[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const int i = first + k * warp_size;
      if (i >= pieces) break;
      inputs[k] = Access::load(x, i);
      if constexpr (Formula::gated) gated[k] = Access::load(x + rows.width, i);
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const int i = first + k * warp_size;
      if (i >= pieces) break;
      float values[Access::size], ups[Access::size];
      Access::unpack(inputs[k], values);
      if constexpr (Formula::gated) Access::unpack(gated[k], ups);
#pragma unroll
      for (int j = 0; j < Access::size; ++j) {
        values[j] = formula.value(values[j]);
        if constexpr (Formula::gated) values[j] *= ups[j];
        values[j] *= weight;
      }
      Access::store(y, i, values);
    }
  }
}

template <class Formula, class Access, class T>
__device__ void backward_row(const ActivationRows<T>& rows, const Formula& formula,
                             std::int64_t row, float (&sums)[Formula::coefficients + 1]) {
  const float weight = rows.weight_of(row);
  const std::int64_t x_row = row * (Formula::gated ? 2 : 1) * rows.width, y_row = row * rows.width;
  const T* x = rows.x + x_row;
  const T* d_y = rows.d_y + y_row;
  T* d_x = rows.d_x + x_row;
  const int pieces = rows.width / Access::size;
  float d_weight[1] = {0.0F};
  for (int first = threadIdx.x % warp_size; first < pieces; first += at_once * warp_size) {
    typename Access::Piece inputs[at_once], gated[at_once], gradients[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const int i = first + k * warp_size;
      if (i >= pieces) break;
      inputs[k] = Access::load(x, i);
      if constexpr (Formula::gated) gated[k] = Access::load(x + rows.width, i);
      gradients[k] = Access::load(d_y, i);
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const int i = first + k * warp_size;
      if (i >= pieces) break;
      float values[Access::size], ups[Access::size], g[Access::size];
      Access::unpack(inputs[k], values);
      if constexpr (Formula::gated) Access::unpack(gated[k], ups);
      Access::unpack(gradients[k], g);
#pragma unroll
      for (int j = 0; j < Access::size; ++j) {
        const float up = Formula::gated ? ups[j] : 1.0F, scaled = weight * g[j];
        if constexpr (Formula::coefficients > 0) {
          formula.add_coefficient_sums(values[j], scaled, sums);
        }
        float slope;
        const float value = formula.value_and_slope(values[j], slope);
        d_weight[0] = fmaf(g[j], value * up, d_weight[0]);
        values[j] = scaled * up * slope;
        ups[j] = scaled * value;
        g[j] = weight * (value * up);
      }
      Access::store(d_x, i, values);
      if constexpr (Formula::gated) Access::store(d_x + rows.width, i, ups);
      if (rows.y != nullptr) Access::store(rows.y + y_row, i, g);
    }
  }
  if (rows.d_row_weights == nullptr) return;
  sum_over_warp(d_weight);
  if (threadIdx.x % warp_size == 0) rows.d_row_weights[row] = d_weight[0];
}

template <class Formula, class T>
__global__ void __launch_bounds__(block_threads)
    forward(const __grid_constant__ RowBlocks blocks, const ActivationRows<T> rows) {
  let_next_begin();
  wait_for_previous();
  const RowBlocks::Span span = blocks[blockIdx.x];
  const Formula formula(rows.coefficients + span.group * rows.set_stride);
  for (std::int64_t row = span.begin + threadIdx.x / warp_size; row < span.end;
       row += block_warps) {
    if (rows.in_vectors)
      forward_row<Formula, ByVectors<T>>(rows, formula, row);
    else
      forward_row<Formula, ByElements<T>>(rows, formula, row);
  }
}

template <class Formula, class T>
__global__ void __launch_bounds__(block_threads)
    backward(const __grid_constant__ RowBlocks blocks, const ActivationRows<T> rows) {
  constexpr int n = Formula::coefficients;
  const RowBlocks::Span span = blocks[blockIdx.x];
  const Formula formula(rows.coefficients + span.group * rows.set_stride);
  double totals[n + 1] = {};
  for (std::int64_t row = span.begin + threadIdx.x / warp_size; row < span.end;
       row += block_warps) {
    float sums[n + 1] = {};
    if (rows.in_vectors)
      backward_row<Formula, ByVectors<T>>(rows, formula, row, sums);
    else
      backward_row<Formula, ByElements<T>>(rows, formula, row, sums);
#pragma unroll
    for (int i = 0; i < n; ++i) totals[i] += sums[i];
  }
  if constexpr (n > 0) {
    __shared__ typename BlockSum<n + 1, double>::Storage storage;
    BlockSum<n + 1, double>{storage}(totals);
    if (threadIdx.x == 0) {
      for (int i = 0; i < n; ++i) rows.partial_sums[std::int64_t{blockIdx.x} * n + i] = totals[i];
    }
  }
}

// Rows of a block, as many for each of its warps, and in the backward pass few enough blocks.
std::int64_t rows_per_block(std::int64_t rows, std::int64_t width, std::int64_t most_blocks) {
  const std::int64_t wanted = std::max(block_elements / width, divide_up(rows, most_blocks));
  return std::max<std::int64_t>(1, divide_up(wanted, block_warps)) * block_warps;
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void activation_forward(CudaBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, Tensor y, Stream& stream) {
  if (x.elements() == 0) return;
  if (norms_rows(activation.kind)) {
    cuda::poly_norm_forward(activation, x, coefficients, group_offsets, row_weights, y, stream);
    return;
  }
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const auto rows = cuda::forward_rows<T>(activation, x, coefficients, row_weights, y);
    cuda::for_each_part(rows, coefficients, group_offsets,
                        cuda::rows_per_block(x.dim(0), rows.width, x.dim(0)), Tensor(), stream,
                        [&](const cuda::RowBlocks& blocks, const cuda::ActivationRows<T>& part) {
                          cuda::with_formula<cuda::DeviceMath>(activation, [&]<class Formula>() {
                            cuda::launch_early_if_few<&cuda::forward<Formula, T>>(
                                static_cast<unsigned>(blocks.count()), cuda::block_threads, 0,
                                cuda::native(stream), blocks, part);
                          });
                          cuda::check_launch("activation_forward");
                        });
  });
}

void activation_backward(CudaBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                         const ActivationGradients& gradients, const Tensor& partial_sums,
                         Stream& stream) {
  if (x.elements() == 0) return;
  if (norms_rows(activation.kind)) {
    cuda::poly_norm_backward(activation, d_y, x, coefficients, group_offsets, row_weights,
                             gradients, partial_sums, stream);
    return;
  }
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const auto rows = cuda::backward_rows<T>(activation, d_y, x, coefficients, row_weights,
                                             gradients, partial_sums);
    cuda::for_each_part(rows, coefficients, group_offsets,
                        cuda::rows_per_block(x.dim(0), rows.width, RowTiles::max_partial_blocks),
                        gradients.d_coefficients, stream,
                        [&](const cuda::RowBlocks& blocks, const cuda::ActivationRows<T>& part) {
                          cuda::with_formula<cuda::DeviceMath>(activation, [&]<class Formula>() {
                            cuda::backward<Formula, T>
                                <<<static_cast<unsigned>(blocks.count()), cuda::block_threads, 0,
                                   cuda::native(stream)>>>(blocks, part);
                          });
                          cuda::check_launch("activation_backward");
                        });
  });
}

}  // namespace polymoe::detail
