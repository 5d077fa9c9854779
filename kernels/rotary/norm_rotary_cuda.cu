// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary_backends.h"

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/rotary/norm_rotary_cuda_units.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int max_threads = 512, any_threads = 256;
constexpr int rows_side_by_side = 8;           // of rows that a warp holds
constexpr std::size_t max_table = 40U * 1024;  // bytes; a block has 48 KiB without asking for more

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
  const auto native = static_cast<cudaStream_t>(stream.native());
  const int units = in_units ? a.width / (2 * Vector<T>::size) : 0;
  const auto launch = [&](auto held, int row_threads, int rows) {
    const auto grid = static_cast<unsigned>((a.rows + rows - 1) / rows);
    held_forward<T, held.value>
        <<<grid, row_threads * rows, table_bytes(rows, a.pairs), native>>>(a, row_threads);
  };
  const auto threads_of = [&](int held) {
    return (units + held * warp_size - 1) / (held * warp_size) * warp_size;
  };
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
    any_forward<T><<<static_cast<unsigned>(a.rows), any_threads, 0, native>>>(a);
  }
  check_launch("norm_rotary_forward");
}

template <class T>
struct Backward {
  const T* d_y;
  const T* x;
  const float* inv_rms;
  const T* weight;
  T* d_x;
  float* partials;  // [blocks, width]
  std::int64_t rows;
  int width, pairs;  // pairs of a head
  RotaryAngles angles;
  std::uint32_t zero;  // of unpack_again()
};

// A block takes `at_once` rows at a time, so that enough loads are under way; its threads own
// columns, whose sums for the weight's gradient stay in registers. d_y rotated back stays in f32.
template <class T, int held_units, int at_once>
__global__ void __launch_bounds__(max_threads)
    held_backward(const __grid_constant__ Backward<T> a) {
  using V = Vector<T>;
  constexpr int size = V::size;
  extern __shared__ uint4 shared[];
  __shared__ typename BlockSum<at_once>::Storage storage;
  BlockSum<at_once> sum_over_block(storage);
  auto* table = reinterpret_cast<float*>(shared);
  const int units = a.width / (2 * size);
  const std::int64_t vectors = a.width / size;
  const std::int64_t begin = blockIdx.x * a.rows / gridDim.x;
  const std::int64_t end = (blockIdx.x + std::int64_t{1}) * a.rows / gridDim.x;
  const float inverse_width = 1.0F / static_cast<float>(a.width);
  uint4 weights[held_units][2] = {};
  float d_weight[held_units][2][size] = {};
#pragma unroll
  for (int k = 0; k < held_units; ++k) {
    const int index = threadIdx.x + k * blockDim.x;
    if (index >= units) continue;
    const Unit<T> unit(index, a.pairs);
    weights[k][0] = reinterpret_cast<const uint4*>(a.weight)[unit.low];
    weights[k][1] = reinterpret_cast<const uint4*>(a.weight)[unit.high];
  }
  for (std::int64_t row = begin; row < end; row += at_once) {
    if constexpr (held_units == 1) {
      unpack_again(weights[0][0], a.zero);
      unpack_again(weights[0][1], a.zero);
    }
    uint4 held_x[at_once][held_units][2], held_d_y[at_once][held_units][2];
    float inv_rms[at_once];
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      inv_rms[r] = row + r < end ? a.inv_rms[row + r] : 0.0F;
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        const int index = threadIdx.x + k * blockDim.x;
        const Unit<T> unit(index, a.pairs);
        const bool inside = row + r < end && index < units;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int64_t at = (row + r) * vectors + (half == 0 ? unit.low : unit.high);
          held_x[r][k][half] = inside ? reinterpret_cast<const uint4*>(a.x)[at] : uint4{0, 0, 0, 0};
          held_d_y[r][k][half] =
              inside ? reinterpret_cast<const uint4*>(a.d_y)[at] : uint4{0, 0, 0, 0};
        }
      }
    }
    // Of rows beyond the end too: their zeros must meet finite numbers.
    fill_rotations(a.angles, row, at_once, a.pairs, table);
    __syncthreads();
    float g[at_once][held_units][2][size], products[at_once] = {};
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        const Unit<T> unit(threadIdx.x + k * blockDim.x, a.pairs);
        V::unpack(held_d_y[r][k][0], g[r][k][0]);
        V::unpack(held_d_y[r][k][1], g[r][k][1]);
        rotate(table + 2 * r * a.pairs + unit.pair, a.pairs, g[r][k][0], g[r][k][1]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float x[size], weight[size];
          V::unpack(held_x[r][k][half], x);
          V::unpack(weights[k][half], weight);
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const float g_xhat = g[r][k][half][j] * (x[j] * inv_rms[r]);
            products[r] = fmaf(g_xhat, weight[j], products[r]);
            d_weight[k][half][j] += g_xhat;
          }
        }
      }
    }
    sum_over_block(products);  // its barrier lets the table be filled anew
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      const float mean = products[r] * inverse_width;
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        const int index = threadIdx.x + k * blockDim.x;
        if (row + r >= end || index >= units) continue;
        const Unit<T> unit(index, a.pairs);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float x[size], weight[size];
          V::unpack(held_x[r][k][half], x);
          V::unpack(weights[k][half], weight);
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const float xhat = x[j] * inv_rms[r];
            x[j] = inv_rms[r] * fmaf(-xhat, mean, g[r][k][half][j] * weight[j]);
          }
          const std::int64_t at = (row + r) * vectors + (half == 0 ? unit.low : unit.high);
          reinterpret_cast<uint4*>(a.d_x)[at] = V::pack(x);
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < held_units; ++k) {
    const int index = threadIdx.x + k * blockDim.x;
    if (index >= units) continue;
    const Unit<T> unit(index, a.pairs);
    float* partial = a.partials + std::int64_t{blockIdx.x} * a.width;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      partial[unit.low * size + j] = d_weight[k][0][j];
      partial[unit.high * size + j] = d_weight[k][1][j];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(any_threads) any_backward(const __grid_constant__ Backward<T> a) {
  __shared__ BlockSum<1>::Storage storage;
  BlockSum<1> sum_over_block(storage);
  const std::int64_t begin = blockIdx.x * a.rows / gridDim.x;
  const std::int64_t end = (blockIdx.x + std::int64_t{1}) * a.rows / gridDim.x;
  float* d_weight = a.partials + std::int64_t{blockIdx.x} * a.width;
  // operation(low, high, g of low, g of high) for the pairs that the thread owns in all heads.
  const auto for_each_pair = [&](std::int64_t row, const auto& operation) {
    const T* d_y = a.d_y + row * a.width;
    for (int pair = threadIdx.x; pair < a.pairs; pair += blockDim.x) {
      const float2 rotation = a.angles(row, pair);
      for (int low = pair; low < a.width; low += 2 * a.pairs) {
        const int high = low + a.pairs;
        const float l = to_float(d_y[low]), h = to_float(d_y[high]);
        operation(low, high, l * rotation.x - h * rotation.y, h * rotation.x + l * rotation.y);
      }
    }
  };
  for (int pair = threadIdx.x; pair < a.pairs; pair += blockDim.x) {
    for (int i = pair; i < a.width; i += a.pairs) d_weight[i] = 0.0F;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = a.x + row * a.width;
    T* d_x = a.d_x + row * a.width;
    const float inv_rms = a.inv_rms[row];
    float products[1] = {0.0F};
    for_each_pair(row, [&](int low, int high, float g_low, float g_high) {
      const float low_share = g_low * (to_float(x[low]) * inv_rms);
      const float high_share = g_high * (to_float(x[high]) * inv_rms);
      products[0] = fmaf(low_share, to_float(a.weight[low]), products[0]);
      products[0] = fmaf(high_share, to_float(a.weight[high]), products[0]);
      d_weight[low] += low_share;
      d_weight[high] += high_share;
    });
    sum_over_block(products);
    const float mean = products[0] / static_cast<float>(a.width);
    for_each_pair(row, [&](int low, int high, float g_low, float g_high) {
      const float low_hat = to_float(x[low]) * inv_rms, high_hat = to_float(x[high]) * inv_rms;
      d_x[low] = from_float<T>(inv_rms * fmaf(-low_hat, mean, g_low * to_float(a.weight[low])));
      d_x[high] = from_float<T>(inv_rms * fmaf(-high_hat, mean, g_high * to_float(a.weight[high])));
    });
  }
}

template <class T>
void backward(const Backward<T>& a, bool in_units, int blocks, float* d_weight, Stream& stream) {
  if (a.rows == 0 || a.width == 0) return;
  const auto native = static_cast<cudaStream_t>(stream.native());
  const auto grid = static_cast<unsigned>(blocks);
  const int units = in_units ? a.width / (2 * Vector<T>::size) : 0;
  const auto threads_of = [&](int held) {
    return (units + held * warp_size - 1) / (held * warp_size) * warp_size;
  };
  if (units > 0 && threads_of(1) <= max_threads && table_bytes(2, a.pairs) <= max_table) {
    held_backward<T, 1, 2><<<grid, threads_of(1), table_bytes(2, a.pairs), native>>>(a);
  } else if (units > 0 && threads_of(2) <= max_threads && table_bytes(1, a.pairs) <= max_table) {
    held_backward<T, 2, 1><<<grid, threads_of(2), table_bytes(1, a.pairs), native>>>(a);
  } else {
    any_backward<T><<<grid, any_threads, 0, native>>>(a);
  }
  check_launch("norm_rotary_backward");
  add_column_sums(a.partials, blocks, a.width, d_weight, stream);
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

void norm_rotary_backward(CudaBackend, const RotaryPositions& positions, const Tensor& d_y,
                          const Tensor& x, const Tensor& inv_rms, const Tensor& weight, Tensor d_x,
                          Tensor d_weight, Tensor partials, Stream& stream) {
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const cuda::Backward<T> a{.d_y = static_cast<const T*>(d_y.raw()),
                              .x = static_cast<const T*>(x.raw()),
                              .inv_rms = inv_rms.data<float>(),
                              .weight = static_cast<const T*>(weight.raw()),
                              .d_x = static_cast<T*>(d_x.raw()),
                              .partials = partials.data<float>(),
                              .rows = x.dim(0),
                              .width = static_cast<int>(x.dim(1) * x.dim(2)),
                              .pairs = static_cast<int>(x.dim(2) / 2),
                              .angles = cuda::RotaryAngles(positions, x.dim(2) / 2, true),
                              .zero = 0};
    cuda::backward(a, cuda::in_units<T>(a.width, a.pairs, {a.d_y, a.x, a.weight, a.d_x}),
                   static_cast<int>(partials.dim(0)), d_weight.data<float>(), stream);
  });
}

}  // namespace polymoe::detail
