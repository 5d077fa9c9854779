// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary_backends.h"

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/rotary/norm_rotary_cuda_units.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int rows_side_by_side = 8;  // of rows that a warp holds

template <class T>
struct Forward {
  const T* x;
  const T* weight;
  T* y;
  float* inv_rms;
  std::int64_t rows;
  int width, pairs;  // pairs of a head
  float epsilon;
  RotaryAngles angles;
};

// A row lies in the registers of a warp (a block then has several rows) or of a block. The angles
// are formed while the row is on its way.
template <class T, int held_units>
__global__ void __launch_bounds__(max_threads)
    held_forward(const __grid_constant__ Forward<T> a, int row_threads) {
  using V = Vector<T>;
  extern __shared__ uint4 shared[];
  __shared__ BlockSum<1>::Storage storage;
  auto* table = reinterpret_cast<float*>(shared);
  const int units = a.width / (2 * V::size), rows = blockDim.x / row_threads;
  const int thread = threadIdx.x % row_threads, own = threadIdx.x / row_threads;
  const std::int64_t first_row = std::int64_t{blockIdx.x} * rows, row = first_row + own;
  const std::int64_t first = row * (a.width / V::size);
  const bool inside = row < a.rows;  // whole warps; where a row has the block, the block
  uint4 lows[held_units], highs[held_units];
#pragma unroll
  for (int k = 0; k < held_units; ++k) {
    const int index = thread + k * row_threads;
    lows[k] = highs[k] = uint4{0, 0, 0, 0};
    if (!inside || index >= units) continue;
    const Unit<T> unit(index, a.pairs);
    lows[k] = reinterpret_cast<const uint4*>(a.x)[first + unit.low];
    highs[k] = reinterpret_cast<const uint4*>(a.x)[first + unit.high];
  }
  fill_rotations(a.angles, first_row, rows, a.pairs, table);
  __syncthreads();
  if (!inside) return;
  float squares[1] = {0.0F};
#pragma unroll
  for (int k = 0; k < held_units; ++k) {
    float low[V::size], high[V::size];
    V::unpack(lows[k], low);
    V::unpack(highs[k], high);
#pragma unroll
    for (int j = 0; j < V::size; ++j) {
      squares[0] = fmaf(low[j], low[j], fmaf(high[j], high[j], squares[0]));
    }
  }
  if (row_threads == warp_size)
    sum_over_warp(squares);
  else
    BlockSum<1>{storage}(squares);
  const float inv_rms = rsqrtf(squares[0] / static_cast<float>(a.width) + a.epsilon);
  if (thread == 0) a.inv_rms[row] = inv_rms;
#pragma unroll
  for (int k = 0; k < held_units; ++k) {
    const int index = thread + k * row_threads;
    if (index >= units) continue;
    const Unit<T> unit(index, a.pairs);
    float low[V::size], high[V::size], low_weights[V::size], high_weights[V::size];
    V::unpack(lows[k], low);
    V::unpack(highs[k], high);
    V::unpack(reinterpret_cast<const uint4*>(a.weight)[unit.low], low_weights);
    V::unpack(reinterpret_cast<const uint4*>(a.weight)[unit.high], high_weights);
#pragma unroll
    for (int j = 0; j < V::size; ++j) {
      low[j] *= inv_rms * low_weights[j];
      high[j] *= inv_rms * high_weights[j];
    }
    rotate(table + 2 * own * a.pairs + unit.pair, a.pairs, low, high);
    reinterpret_cast<uint4*>(a.y)[first + unit.low] = V::pack(low);
    reinterpret_cast<uint4*>(a.y)[first + unit.high] = V::pack(high);
  }
}

// Rows of any width and alignment: a block per row, read twice. A thread has the same pairs in all
// heads, and their angles.
template <class T>
__global__ void __launch_bounds__(any_threads) any_forward(const __grid_constant__ Forward<T> a) {
  __shared__ BlockSum<1>::Storage storage;
  const std::int64_t row = blockIdx.x;
  const T* x = a.x + row * a.width;
  T* y = a.y + row * a.width;
  float squares[1] = {0.0F};
  for (int i = threadIdx.x; i < a.width; i += blockDim.x) {
    const float value = to_float(x[i]);
    squares[0] = fmaf(value, value, squares[0]);
  }
  BlockSum<1>{storage}(squares);
  const float inv_rms = rsqrtf(squares[0] / static_cast<float>(a.width) + a.epsilon);
  if (threadIdx.x == 0) a.inv_rms[row] = inv_rms;
  for (int pair = threadIdx.x; pair < a.pairs; pair += blockDim.x) {
    const float2 rotation = a.angles(row, pair);
    for (int low = pair; low < a.width; low += 2 * a.pairs) {
      const int high = low + a.pairs;
      const float l = to_float(x[low]) * (inv_rms * to_float(a.weight[low]));
      const float h = to_float(x[high]) * (inv_rms * to_float(a.weight[high]));
      y[low] = from_float<T>(l * rotation.x - h * rotation.y);
      y[high] = from_float<T>(h * rotation.x + l * rotation.y);
    }
  }
}

template <class T>
void forward(const Forward<T>& a, bool in_units, Stream& stream) {
  if (a.rows == 0 || a.width == 0) return;
  const cudaStream_t native_stream = native(stream);
  const int units = in_units ? a.width / (2 * Vector<T>::size) : 0;
  const auto launch = [&](auto held, int row_threads, int rows) {
    const auto grid = static_cast<unsigned>(divide_up(a.rows, rows));
    held_forward<T, held.value>
        <<<grid, row_threads * rows, table_bytes(rows, a.pairs), native_stream>>>(a, row_threads);
  };
  const auto threads_of = [&](int held) { return divide_up(units, held * warp_size) * warp_size; };
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  if (units > 0 && units <= 4 * warp_size && table_bytes(rows_side_by_side, a.pairs) <= max_table) {
    if (units <= warp_size)
      launch(One{}, warp_size, rows_side_by_side);
    else if (units <= 2 * warp_size)
      launch(Two{}, warp_size, rows_side_by_side);
    else
      launch(Four{}, warp_size, rows_side_by_side);
  } else if (units > 0 && threads_of(2) <= max_threads && table_bytes(1, a.pairs) <= max_table) {
    launch(Two{}, threads_of(2), 1);
  } else if (units > 0 && threads_of(4) <= max_threads && table_bytes(1, a.pairs) <= max_table) {
    launch(Four{}, threads_of(4), 1);
  } else {
    any_forward<T><<<static_cast<unsigned>(a.rows), any_threads, 0, native_stream>>>(a);
  }
  check_launch("norm_rotary_forward");
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void norm_rotary_forward(CudaBackend, const RotaryPositions& positions, const Tensor& x,
                         const Tensor& weight, double epsilon, Tensor y, Tensor inv_rms,
                         Stream& stream) {
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const cuda::Forward<T> a{.x = static_cast<const T*>(x.raw()),
                             .weight = static_cast<const T*>(weight.raw()),
                             .y = static_cast<T*>(y.raw()),
                             .inv_rms = inv_rms.data<float>(),
                             .rows = x.dim(0),
                             .width = static_cast<int>(x.dim(1) * x.dim(2)),
                             .pairs = static_cast<int>(x.dim(2) / 2),
                             .epsilon = static_cast<float>(epsilon),
                             .angles = cuda::RotaryAngles(positions, x.dim(2) / 2, false)};
    cuda::forward(a, cuda::in_units<T>(a.width, a.pairs, {a.x, a.weight, a.y}), stream);
  });
}

}  // namespace polymoe::detail
