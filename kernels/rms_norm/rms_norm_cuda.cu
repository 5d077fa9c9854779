// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm/rms_norm_backends.h"

#include <cuda_runtime.h>

#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/cuda/row_shape.h"
#include "kernels/rms_norm/rms_norm_cuda_row.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

template <class T>
struct Forward {
  const T* x;
  const T* delta;  // null without a residual
  const T* weight;
  T* sum;  // null without a residual
  T* y;
  float* inv_rms;
  std::int64_t rows;
  int width;
  float epsilon;
};

// A row lies in the registers of a warp (a block then has several rows) or of a block.
template <class T, int held_vectors>
__global__ void __launch_bounds__(RowShape::max_threads)
    held_forward(const __grid_constant__ Forward<T> a, int row_threads) {
  using V = Vector<T>;
  __shared__ BlockSum<1>::Storage storage;
  let_next_begin();
  const int thread = threadIdx.x % row_threads, vectors = a.width / V::size;
  if (gridDim.x == 1) {
    for (int i = 8 * static_cast<int>(threadIdx.x); i < vectors; i += 8 * blockDim.x)
      prefetch(reinterpret_cast<const uint4*>(a.weight) + i);
  }
  wait_for_previous();
  const std::int64_t row =
      std::int64_t{blockIdx.x} * (blockDim.x / row_threads) + threadIdx.x / row_threads;
  if (row >= a.rows) return;  // whole warps; where a row has the block, the block
  const std::int64_t first = row * vectors;
  uint4 held[held_vectors];
#pragma unroll
  for (int k = 0; k < held_vectors; ++k) {
    const int i = thread + k * row_threads;
    held[k] = i < vectors ? reinterpret_cast<const uint4*>(a.x)[first + i] : uint4{0, 0, 0, 0};
  }
  if (a.delta != nullptr) {
#pragma unroll
    for (int k = 0; k < held_vectors; ++k) {
      const int i = thread + k * row_threads;
      if (i >= vectors) continue;
      float values[V::size], deltas[V::size];
      V::unpack(held[k], values);
      V::unpack(reinterpret_cast<const uint4*>(a.delta)[first + i], deltas);
#pragma unroll
      for (int j = 0; j < V::size; ++j) values[j] += deltas[j];
      held[k] = V::pack(values);  // the norm is that of the sum as it is kept
      reinterpret_cast<uint4*>(a.sum)[first + i] = held[k];
    }
  }
  float squares[1] = {0.0F};
#pragma unroll
  for (int k = 0; k < held_vectors; ++k) {
    float values[V::size];
    V::unpack(held[k], values);
#pragma unroll
    for (const float value : values) squares[0] = fmaf(value, value, squares[0]);
  }
  if (row_threads == warp_size)
    sum_over_warp(squares);
  else
    BlockSum<1>{storage}(squares);
  const float inv_rms = inverse_rms(squares[0], a.width, a.epsilon);
  if (thread == 0) a.inv_rms[row] = inv_rms;
#pragma unroll
  for (int k = 0; k < held_vectors; ++k) {
    const int i = thread + k * row_threads;
    if (i >= vectors) continue;
    float values[V::size], weights[V::size];
    V::unpack(held[k], values);
    V::unpack(reinterpret_cast<const uint4*>(a.weight)[i], weights);
#pragma unroll
    for (int j = 0; j < V::size; ++j) values[j] = normed(values[j], inv_rms, weights[j]);
    reinterpret_cast<uint4*>(a.y)[first + i] = V::pack(values);
  }
}

// Rows of any width and alignment: a block per row, read twice.
template <class T>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_forward(const __grid_constant__ Forward<T> a) {
  __shared__ BlockSum<1>::Storage storage;
  let_next_begin();
  wait_for_previous();
  const std::int64_t first = std::int64_t{blockIdx.x} * a.width;
  const T* x = a.x + first;
  float squares[1] = {0.0F};
  for (int i = threadIdx.x; i < a.width; i += blockDim.x) {
    float value = to_float(x[i]);
    if (a.delta != nullptr) {
      const T sum = from_float<T>(value + to_float(a.delta[first + i]));
      a.sum[first + i] = sum;
      value = to_float(sum);
    }
    squares[0] = fmaf(value, value, squares[0]);
  }
  BlockSum<1>{storage}(squares);
  const float inv_rms = inverse_rms(squares[0], a.width, a.epsilon);
  if (threadIdx.x == 0) a.inv_rms[blockIdx.x] = inv_rms;
  const T* summed = a.delta == nullptr ? x : a.sum + first;  // a thread reads what it wrote
  for (int i = threadIdx.x; i < a.width; i += blockDim.x) {
    a.y[first + i] = from_float<T>(normed(to_float(summed[i]), inv_rms, to_float(a.weight[i])));
  }
}

template <class T>
void forward(const Forward<T>& a, bool vectors, Stream& stream) {
  if (a.rows == 0 || a.width == 0) return;
  const cudaStream_t native_stream = native(stream);
  const RowShape shape(a.width, Vector<T>::size, vectors);
  const auto grid = static_cast<unsigned>(divide_up(a.rows, shape.rows_at_once()));
  if (shape.held_vectors == 0) {
    launch_early_if_few<&any_forward<T>>(grid, shape.block_threads, 0, native_stream, a);
  } else {
    shape.with_held_vectors([&](auto held) {
      launch_early_if_few<&held_forward<T, held.value>>(grid, shape.block_threads, 0, native_stream,
                                                        a, shape.row_threads);
    });
  }
  check_launch("rms_norm_forward");
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
  int width;
  bool accumulate;
};

// A block takes `at_once` rows at a time, so that enough loads are under way; its threads own
// columns, whose sums for the weight's gradient stay in registers.
template <class T, int held_vectors, int at_once>
__global__ void __launch_bounds__(RowShape::max_threads)
    held_backward(const __grid_constant__ Backward<T> a) {
  using V = Vector<T>;
  __shared__ typename BlockSum<at_once>::Storage storage;
  BlockSum<at_once> sum_over_block(storage);
  const int vectors = a.width / V::size;
  const std::int64_t begin = blockIdx.x * a.rows / gridDim.x;
  const std::int64_t end = (blockIdx.x + std::int64_t{1}) * a.rows / gridDim.x;
  const float inverse_width = 1.0F / static_cast<float>(a.width);
  float weights[held_vectors][V::size] = {}, d_weight[held_vectors][V::size] = {};
#pragma unroll
  for (int k = 0; k < held_vectors; ++k) {
    const int i = threadIdx.x + k * blockDim.x;
    if (i < vectors) V::unpack(reinterpret_cast<const uint4*>(a.weight)[i], weights[k]);
  }
  for (std::int64_t row = begin; row < end; row += at_once) {
    uint4 held_x[at_once][held_vectors], held_g[at_once][held_vectors];
    float inv_rms[at_once];
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      inv_rms[r] = row + r < end ? a.inv_rms[row + r] : 0.0F;
#pragma unroll
      for (int k = 0; k < held_vectors; ++k) {
        const int i = threadIdx.x + k * blockDim.x;
        const bool inside = row + r < end && i < vectors;
        const std::int64_t at = (row + r) * vectors + i;
        held_x[r][k] = inside ? reinterpret_cast<const uint4*>(a.x)[at] : uint4{0, 0, 0, 0};
        held_g[r][k] = inside ? reinterpret_cast<const uint4*>(a.d_y)[at] : uint4{0, 0, 0, 0};
      }
    }
    float products[at_once] = {};
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
#pragma unroll
      for (int k = 0; k < held_vectors; ++k) {
        float x[V::size], g[V::size];
        V::unpack(held_x[r][k], x);
        V::unpack(held_g[r][k], g);
#pragma unroll
        for (int j = 0; j < V::size; ++j) {
          const float g_xhat = g[j] * (x[j] * inv_rms[r]);
          products[r] = fmaf(g_xhat, weights[k][j], products[r]);
          d_weight[k][j] += g_xhat;
        }
      }
    }
    sum_over_block(products);
#pragma unroll
    for (int r = 0; r < at_once; ++r) {
      const float mean = products[r] * inverse_width;
#pragma unroll
      for (int k = 0; k < held_vectors; ++k) {
        const int i = threadIdx.x + k * blockDim.x;
        if (row + r >= end || i >= vectors) continue;
        float x[V::size], g[V::size];
        V::unpack(held_x[r][k], x);
        V::unpack(held_g[r][k], g);
        uint4* d_x = reinterpret_cast<uint4*>(a.d_x) + (row + r) * vectors + i;
        float before[V::size] = {};
        if (a.accumulate) V::unpack(*d_x, before);
#pragma unroll
        for (int j = 0; j < V::size; ++j) {
          const float xhat = x[j] * inv_rms[r];
          x[j] = fmaf(inv_rms[r], fmaf(-xhat, mean, g[j] * weights[k][j]), before[j]);
        }
        *d_x = V::pack(x);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < held_vectors; ++k) {
    const int i = threadIdx.x + k * blockDim.x;
    if (i >= vectors) continue;
#pragma unroll
    for (int j = 0; j < V::size; ++j) {
      a.partials[std::int64_t{blockIdx.x} * a.width + i * V::size + j] = d_weight[k][j];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(RowShape::max_threads)
    any_backward(const __grid_constant__ Backward<T> a) {
  __shared__ BlockSum<1>::Storage storage;
  BlockSum<1> sum_over_block(storage);
  const std::int64_t begin = blockIdx.x * a.rows / gridDim.x;
  const std::int64_t end = (blockIdx.x + std::int64_t{1}) * a.rows / gridDim.x;
  float* d_weight = a.partials + std::int64_t{blockIdx.x} * a.width;  // a thread owns its columns
  for (int i = threadIdx.x; i < a.width; i += blockDim.x) d_weight[i] = 0.0F;
  for (std::int64_t row = begin; row < end; ++row) {
    const T *x = a.x + row * a.width, *d_y = a.d_y + row * a.width;
    T* d_x = a.d_x + row * a.width;
    const float inv_rms = a.inv_rms[row];
    float products[1] = {0.0F};
    for (int i = threadIdx.x; i < a.width; i += blockDim.x) {
      const float g_xhat = to_float(d_y[i]) * (to_float(x[i]) * inv_rms);
      products[0] = fmaf(g_xhat, to_float(a.weight[i]), products[0]);
      d_weight[i] += g_xhat;
    }
    sum_over_block(products);
    const float mean = products[0] / static_cast<float>(a.width);
    for (int i = threadIdx.x; i < a.width; i += blockDim.x) {
      const float xhat = to_float(x[i]) * inv_rms;
      const float before = a.accumulate ? to_float(d_x[i]) : 0.0F;
      d_x[i] = from_float<T>(
          fmaf(inv_rms, fmaf(-xhat, mean, to_float(d_y[i]) * to_float(a.weight[i])), before));
    }
  }
}

template <class T>
void backward(const Backward<T>& a, bool in_vectors, int blocks, const Tensor& d_weight,
              Stream& stream) {
  if (a.rows == 0 || a.width == 0) return;
  const cudaStream_t native_stream = native(stream);
  const auto grid = static_cast<unsigned>(blocks);
  const int vectors = in_vectors ? a.width / Vector<T>::size : 0;
  const auto threads_of = [&](int held) {
    return divide_up(vectors, held * warp_size) * warp_size;
  };
  if (vectors > 0 && threads_of(1) <= RowShape::max_threads) {
    held_backward<T, 1, 4><<<grid, threads_of(1), 0, native_stream>>>(a);
  } else if (vectors > 0 && threads_of(2) <= RowShape::max_threads) {
    held_backward<T, 2, 1><<<grid, threads_of(2), 0, native_stream>>>(a);
  } else {
    any_backward<T><<<grid, 256, 0, native_stream>>>(a);
  }
  check_launch("rms_norm_backward");
  add_column_sums(a.partials, blocks, a.width, d_weight, stream);
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {
namespace {

void norm(const Tensor& x, const Tensor* delta, const Tensor& weight, double epsilon,
          const Tensor* sum, const Tensor& y, const Tensor& inv_rms, Stream& stream) {
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    cuda::Forward<T> a{};
    a.x = static_cast<const T*>(x.raw());
    a.weight = static_cast<const T*>(weight.raw());
    a.y = static_cast<T*>(y.raw());
    a.inv_rms = inv_rms.data<float>();
    a.rows = x.dim(0);
    a.width = static_cast<int>(x.dim(1));
    a.epsilon = static_cast<float>(epsilon);
    if (delta != nullptr) {
      a.delta = static_cast<const T*>(delta->raw());
      a.sum = static_cast<T*>(sum->raw());
    }
    cuda::forward(a, cuda::in_vectors<T>(a.width, {a.x, a.delta, a.weight, a.sum, a.y}), stream);
  });
}

}  // namespace

void rms_norm_forward(CudaBackend, const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream& stream) {
  norm(x, nullptr, weight, epsilon, nullptr, y, inv_rms, stream);
}

void add_rms_norm_forward(CudaBackend, const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream& stream) {
  norm(x, &delta, weight, epsilon, &sum, y, inv_rms, stream);
}

void rms_norm_backward(CudaBackend, const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Tensor partials, Stream& stream) {
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    cuda::Backward<T> a{};
    a.d_y = static_cast<const T*>(d_y.raw());
    a.x = static_cast<const T*>(x.raw());
    a.inv_rms = inv_rms.data<float>();
    a.weight = static_cast<const T*>(weight.raw());
    a.d_x = static_cast<T*>(d_x.raw());
    a.partials = partials.data<float>();
    a.rows = x.dim(0);
    a.width = static_cast<int>(x.dim(1));
    a.accumulate = write == Write::accumulate;
    cuda::backward(a, cuda::in_vectors<T>(a.width, {a.d_y, a.x, a.weight, a.d_x}),
                   static_cast<int>(partials.dim(0)), d_weight, stream);
  });
}

}  // namespace polymoe::detail
