// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary_backends.h"

#include <cuda_runtime.h>

#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/rotary/norm_rotary_cuda_units.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

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

// What a thread holds of a block's rows, `at_once` at a time so that enough loads are under way:
// its units of x and d_y, d_y rotated back in f32, and of all rows the sums of its columns for the
// weight's gradient.
template <class T, int held_units, int at_once>
struct HeldRows {
  using V = Vector<T>;
  static constexpr int size = V::size;

  __device__ explicit HeldRows(const Backward<T>& arguments)
      : a(arguments),
        units(a.width / (2 * size)),
        inverse_width(1.0F / static_cast<float>(a.width)) {
#pragma unroll
    for (int k = 0; k < held_units; ++k) {
      if (!holds(k)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weights[k][half] = reinterpret_cast<const uint4*>(a.weight)[vector_of(k, half)];
      }
    }
  }

  // Rows from `row` on; zeros beyond `end`.
  __device__ void load(std::int64_t row, std::int64_t end) {
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      inv_rms[r] = row + r < end ? a.inv_rms[row + r] : 0.0F;
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        const bool inside = row + r < end && holds(k);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int64_t at = (row + r) * vectors() + vector_of(k, half);
          x[r][k][half] = inside ? reinterpret_cast<const uint4*>(a.x)[at] : uint4{0, 0, 0, 0};
          d_y[r][k][half] = inside ? reinterpret_cast<const uint4*>(a.d_y)[at] : uint4{0, 0, 0, 0};
        }
      }
    }
  }

  // Rotates d_y back and adds the weight's gradient; products[r] becomes the thread's part of
  // <g weight, x / rms(x)> over row r.
  __device__ void rotate_back(const float* table, float (&products)[at_once]) {
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        V::unpack(d_y[r][k][0], g[r][k][0]);
        V::unpack(d_y[r][k][1], g[r][k][1]);
        rotate(table + 2 * r * a.pairs + unit(k).pair, a.pairs, g[r][k][0], g[r][k][1]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float values[size], weight[size];
          V::unpack(x[r][k][half], values);
          V::unpack(weights[k][half], weight);
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const float g_xhat = g[r][k][half][j] * (values[j] * inv_rms[r]);
            products[r] = fmaf(g_xhat, weight[j], products[r]);
            d_weight[k][half][j] += g_xhat;
          }
        }
      }
    }
  }

  // d_x, from the products' sums over the rows.
  __device__ void store_d_x(std::int64_t row, std::int64_t end, const float (&products)[at_once]) {
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      const float mean = products[r] * inverse_width;
#pragma unroll
      for (int k = 0; k < held_units; ++k) {
        if (row + r >= end || !holds(k)) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float values[size], weight[size];
          V::unpack(x[r][k][half], values);
          V::unpack(weights[k][half], weight);
#pragma unroll
          for (int j = 0; j < size; ++j) {
            const float xhat = values[j] * inv_rms[r];
            values[j] = inv_rms[r] * fmaf(-xhat, mean, g[r][k][half][j] * weight[j]);
          }
          const std::int64_t at = (row + r) * vectors() + vector_of(k, half);
          reinterpret_cast<uint4*>(a.d_x)[at] = V::pack(values);
        }
      }
    }
  }

  // The block's sums, [width].
  __device__ void store_d_weight(float* partial) const {
#pragma unroll
    for (int k = 0; k < held_units; ++k) {
      if (!holds(k)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < size; ++j) {
          partial[vector_of(k, half) * size + j] = d_weight[k][half][j];
        }
      }
    }
  }

  // The weights are unpacked anew for every row, where they would fill the registers otherwise.
  __device__ void unpack_weights_again() {
    if constexpr (held_units > 1) return;
    unpack_again(weights[0][0], a.zero);
    unpack_again(weights[0][1], a.zero);
  }

 private:
  __device__ int index(int k) const { return threadIdx.x + k * blockDim.x; }
  __device__ bool holds(int k) const { return index(k) < units; }
  __device__ Unit<T> unit(int k) const { return Unit<T>(index(k), a.pairs); }
  __device__ int vector_of(int k, int half) const { return half == 0 ? unit(k).low : unit(k).high; }
  __device__ std::int64_t vectors() const { return a.width / size; }

  const Backward<T>& a;
  int units;
  float inverse_width;
  uint4 weights[held_units][2] = {};
  uint4 x[at_once][held_units][2], d_y[at_once][held_units][2];
  float inv_rms[at_once];
  float g[at_once][held_units][2][size];
  float d_weight[held_units][2][size] = {};
};

// A block's threads own columns.
template <class T, int held_units, int at_once>
__global__ void __launch_bounds__(max_threads)
    held_backward(const __grid_constant__ Backward<T> a) {
  extern __shared__ uint4 shared[];
  __shared__ typename BlockSum<at_once>::Storage storage;
  BlockSum<at_once> sum_over_block(storage);
  auto* table = reinterpret_cast<float*>(shared);
  const std::int64_t begin = blockIdx.x * a.rows / gridDim.x;
  const std::int64_t end = (blockIdx.x + std::int64_t{1}) * a.rows / gridDim.x;
  HeldRows<T, held_units, at_once> rows(a);
  for (std::int64_t row = begin; row < end; row += at_once) {
    rows.unpack_weights_again();
    rows.load(row, end);
    // Of rows beyond the end too: their zeros must meet finite numbers.
    fill_rotations(a.angles, row, at_once, a.pairs, table);
    __syncthreads();
    float products[at_once] = {};
    rows.rotate_back(table, products);
    sum_over_block(products);  // its barrier lets the table be filled anew
    rows.store_d_x(row, end, products);
  }
  rows.store_d_weight(a.partials + std::int64_t{blockIdx.x} * a.width);
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
void backward(const Backward<T>& a, bool in_units, int blocks, const Tensor& d_weight,
              Stream& stream) {
  if (a.rows == 0 || a.width == 0) return;
  const cudaStream_t native_stream = native(stream);
  const auto grid = static_cast<unsigned>(blocks);
  const int units = in_units ? a.width / (2 * Vector<T>::size) : 0;
  const auto threads_of = [&](int held) { return divide_up(units, held * warp_size) * warp_size; };
  if (units > 0 && threads_of(1) <= max_threads && table_bytes(2, a.pairs) <= max_table) {
    held_backward<T, 1, 2><<<grid, threads_of(1), table_bytes(2, a.pairs), native_stream>>>(a);
  } else if (units > 0 && threads_of(2) <= max_threads && table_bytes(1, a.pairs) <= max_table) {
    held_backward<T, 2, 1><<<grid, threads_of(2), table_bytes(1, a.pairs), native_stream>>>(a);
  } else {
    any_backward<T><<<grid, any_threads, 0, native_stream>>>(a);
  }
  check_launch("norm_rotary_backward");
  add_column_sums(a.partials, blocks, a.width, d_weight, stream);
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

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
                   static_cast<int>(partials.dim(0)), d_weight, stream);
  });
}

}  // namespace polymoe::detail
