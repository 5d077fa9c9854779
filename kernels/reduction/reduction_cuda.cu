// SPDX-License-Identifier: Apache-2.0
#include "kernels/reduction/reduction_backends.h"

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

template <bool squared, class T>
__global__ void __launch_bounds__(element_threads)
    sum_blocks(const T* x, std::int64_t count, std::int64_t elements_per_block, bool in_vectors,
               double* partials) {
  using V = Vector<T>;
  __shared__ BlockSum<1, double>::Storage storage;
  const std::int64_t begin = blockIdx.x * elements_per_block;
  const std::int64_t left = count - begin;
  const int size = static_cast<int>(left < elements_per_block ? left : elements_per_block);
  x += begin;
  double sum[1] = {0.0};
  const auto accumulate = [&](float value) {
    const auto v = static_cast<double>(value);
    sum[0] = squared ? fma(v, v, sum[0]) : sum[0] + v;
  };
  const int vectors = in_vectors ? size / V::size : 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < vectors; i += element_threads) {
    float values[V::size];
    V::unpack(__ldcs(reinterpret_cast<const uint4*>(x) + i), values);
#pragma unroll
    for (const float value : values) accumulate(value);
  }
  for (int i = vectors * V::size + threadIdx.x; i < size; i += element_threads) {
    accumulate(to_float(x[i]));
  }
  BlockSum<1, double>{storage}(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum[0];
}

__global__ void __launch_bounds__(element_threads)
    sum_partials(const double* partials, std::int64_t blocks, double* result) {
  __shared__ BlockSum<1, double>::Storage storage;
  double sum[1] = {0.0};
  for (std::int64_t b = threadIdx.x; b < blocks; b += element_threads) sum[0] += partials[b];
  BlockSum<1, double>{storage}(sum);
  if (threadIdx.x == 0) result[0] = sum[0];
}

template <bool squared>
void reduce(const Tensor& x, std::int64_t elements_per_block, const Tensor& partials,
            const Tensor& result, Stream& stream) {
  const cudaStream_t native_stream = native(stream);
  if (x.elements() > 0) {
    with_real(x.dtype(), [&]<class T>(T) {
      sum_blocks<squared, T>
          <<<static_cast<unsigned>(partials.elements()), element_threads, 0, native_stream>>>(
              static_cast<const T*>(x.raw()), x.elements(), elements_per_block,
              in_vectors<T>(elements_per_block, {x.raw()}), partials.data<double>());
      check_launch("sum_blocks");
    });
  }
  sum_partials<<<1, element_threads, 0, native_stream>>>(
      partials.data<double>(), partials.elements(), result.data<double>());
  check_launch("sum_partials");
}

template <class X, class Y>
__global__ void __launch_bounds__(element_threads)
    add_elements(const X* x, Y* y, std::int64_t fours, std::int64_t count) {
  for (std::int64_t i = first_element(); i < fours; i += element_stride()) {
    float from[4], to[4];
    load_four(x + 4 * i, from);
    load_four(y + 4 * i, to);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] += from[j];
    store_four(y + 4 * i, to);
  }
  for (std::int64_t i = 4 * fours + first_element(); i < count; i += element_stride()) {
    y[i] = from_float<Y>(to_float(y[i]) + to_float(x[i]));
  }
}

template <class T>
__global__ void __launch_bounds__(element_threads)
    fill_elements(float value, T* y, std::int64_t vectors, std::int64_t count) {
  using V = Vector<T>;
  float values[V::size];
  for (float& v : values) v = value;
  for (std::int64_t i = first_element(); i < vectors; i += element_stride()) {
    reinterpret_cast<uint4*>(y)[i] = V::pack(values);
  }
  for (std::int64_t i = vectors * V::size + first_element(); i < count; i += element_stride()) {
    y[i] = from_float<T>(value);
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void sum(CudaBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
         Tensor result, Stream& stream) {
  cuda::reduce<false>(x, elements_per_block, partials, result, stream);
}

void sum_of_squares(CudaBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
                    Tensor result, Stream& stream) {
  cuda::reduce<true>(x, elements_per_block, partials, result, stream);
}

void add(CudaBackend, const Tensor& x, Tensor y, Stream& stream) {
  const std::int64_t count = x.elements();
  if (count == 0) return;
  const std::int64_t fours = cuda::in_vectors<float>(4, {x.raw(), y.raw()}) ? count / 4 : 0;
  cuda::with_real(x.dtype(), [&]<class X>(X) {
    cuda::with_real(y.dtype(), [&]<class Y>(Y) {
      cuda::add_elements<X, Y>
          <<<cuda::element_blocks(count, 4), cuda::element_threads, 0, cuda::native(stream)>>>(
              static_cast<const X*>(x.raw()), static_cast<Y*>(y.raw()), fours, count);
    });
  });
  cuda::check_launch("add");
}

void fill(CudaBackend, double value, Tensor y, Stream& stream) {
  const std::int64_t count = y.elements();
  if (count == 0) return;
  cuda::with_real(y.dtype(), [&]<class T>(T) {
    constexpr std::int64_t size = cuda::Vector<T>::size;
    const std::int64_t vectors = cuda::in_vectors<T>(size, {y.raw()}) ? count / size : 0;
    cuda::fill_elements<T>
        <<<cuda::element_blocks(count, size), cuda::element_threads, 0, cuda::native(stream)>>>(
            static_cast<float>(value), static_cast<T*>(y.raw()), vectors, count);
  });
  cuda::check_launch("fill");
}

}  // namespace polymoe::detail
