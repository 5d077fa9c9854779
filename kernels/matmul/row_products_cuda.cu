// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/row_products_cuda.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/matmul/row_products_backends.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

// A warp per result. Few warps to a block, so that the processors' shares come out even.
constexpr int threads = 128, warps = threads / warp_size;
// Vectors that a lane has under way: with 16 warps a processor 64 KiB, more than it takes to keep
// its share of an H200's memory busy.
constexpr int ahead = 8;

// A lane's part of the product of two rows in vectors: the vectors lane, lane + 32, ...; `row(i)` is
// where the weights' i-th vector lies.
template <class T>
class VectorDot {
  using V = Vector<T>;

 public:
  template <class Row>
  __device__ void load(const Row& row, int first, int count) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int at = first + i * warp_size;
      held_[i] = at < count ? __ldcs(row(at)) : uint4{0, 0, 0, 0};
    }
  }
  __device__ void multiply(const uint4* x, int first, int count) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int at = first + i * warp_size;
      if (at >= count) break;
      float weights[V::size], values[V::size];
      V::unpack(held_[i], weights);
      V::unpack(x[at], values);
#pragma unroll
      for (int j = 0; j < V::size; ++j) sums_[j % 2] = fmaf(weights[j], values[j], sums_[j % 2]);
    }
  }
  __device__ float sum() const { return sums_[0] + sums_[1]; }

 private:
  uint4 held_[ahead];
  float sums_[2] = {0.0F, 0.0F};
};

template <class T>
struct Products {
  const T* x;
  int k, parts;
  const T* weights[RowProducts::most];
  void* y[RowProducts::most];
  int end[RowProducts::most];  // of the parts' results, one behind the other
};

template <class T, class Out, bool vectors>
__global__ void __launch_bounds__(threads) products_of_row(const __grid_constant__ Products<T> a) {
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  int result = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / warp_size;
  if (result >= a.end[a.parts - 1]) return;  // whole warps, not the block's first
  const T* weights = a.weights[0];
  void* y = a.y[0];
  int before = 0;
#pragma unroll
  for (int p = 1; p < RowProducts::most; ++p) {
    if (p >= a.parts || result < a.end[p - 1]) continue;
    weights = a.weights[p];
    y = a.y[p];
    before = a.end[p - 1];
  }
  result -= before;
  const T* row = weights + std::int64_t{result} * a.k;
  float sum = 0.0F;
  if constexpr (vectors) {
    const int count = a.k / Vector<T>::size;
    const auto place = [&](int at) { return reinterpret_cast<const uint4*>(row) + at; };
    VectorDot<T> dot;
    dot.load(place, lane, count);  // no kernel of a step writes weights
    wait_for_previous();
    for (int first = lane; first < count; first += ahead * warp_size) {
      if (first != lane) dot.load(place, first, count);
      dot.multiply(reinterpret_cast<const uint4*>(a.x), first, count);
    }
    sum = dot.sum();
  } else {
    wait_for_previous();
    for (int i = lane; i < a.k; i += warp_size) sum = fmaf(to_float(row[i]), to_float(a.x[i]), sum);
  }
  sum = sum_over_warp(sum);
  if (lane == 0) static_cast<Out*>(y)[result] = from_float<Out>(sum);
}

template <class T>
struct Chosen {
  const T* weights;
  const std::int32_t* chosen;
  const T* x;
  T* y;
  int count, outputs, k;
  bool accumulate;

  __device__ const T* row(int expert, int output) const {
    return weights + (std::int64_t{expert} * outputs + output) * k;
  }
};

template <class T, bool vectors>
__global__ void __launch_bounds__(threads) products_of_chosen(const __grid_constant__ Chosen<T> a) {
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int result =
      static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / warp_size;
  wait_for_previous();
  if (result >= a.count * a.outputs) return;
  const int expert = a.chosen[result / a.outputs];
  const T* row = a.row(expert, result % a.outputs);
  float sum = 0.0F;
  if constexpr (vectors) {
    const int count = a.k / Vector<T>::size;
    const auto place = [&](int at) { return reinterpret_cast<const uint4*>(row) + at; };
    VectorDot<T> dot;
    for (int first = lane; first < count; first += ahead * warp_size) {
      dot.load(place, first, count);
      dot.multiply(reinterpret_cast<const uint4*>(a.x), first, count);
    }
    sum = dot.sum();
  } else {
    for (int i = lane; i < a.k; i += warp_size) sum = fmaf(to_float(row[i]), to_float(a.x[i]), sum);
  }
  sum = sum_over_warp(sum);
  if (lane == 0) a.y[result] = from_float<T>(sum);
}

// The matrices' rows of one output, one behind the other, are one long row; so are those of x.
template <class T, bool vectors>
__global__ void __launch_bounds__(threads) sums_of_chosen(const __grid_constant__ Chosen<T> a) {
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int output =
      static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / warp_size;
  wait_for_previous();
  if (output >= a.outputs) return;
  float sum = 0.0F;
  if constexpr (vectors) {
    const int of_row = a.k / Vector<T>::size, count = a.count * of_row;
    VectorDot<T> dot;
    const auto place = [&](int at) {
      return reinterpret_cast<const uint4*>(a.row(a.chosen[at / of_row], output)) + at % of_row;
    };
    for (int first = lane; first < count; first += ahead * warp_size) {
      dot.load(place, first, count);
      dot.multiply(reinterpret_cast<const uint4*>(a.x), first, count);
    }
    sum = dot.sum();
  } else {
    for (int j = 0; j < a.count; ++j) {
      const T* row = a.row(a.chosen[j], output);
      const T* x = a.x + std::int64_t{j} * a.k;
      for (int i = lane; i < a.k; i += warp_size) sum = fmaf(to_float(row[i]), to_float(x[i]), sum);
    }
  }
  sum = sum_over_warp(sum);
  if (lane != 0) return;
  if (a.accumulate) sum += to_float(a.y[output]);
  a.y[output] = from_float<T>(sum);
}

unsigned blocks_of(std::int64_t results) {
  return static_cast<unsigned>(divide_up(results, warps));
}

template <class T, class Out>
void launch_products(const RowProducts& products, Stream& stream) {
  Products<T> a{};
  a.x = static_cast<const T*>(products.x);
  a.k = static_cast<int>(products.k);
  bool vectors = in_vectors<T>(products.k, {products.x});
  int results = 0;
  for (int p = 0; p < products.count; ++p) {
    const RowProducts::Part& part = products.parts[static_cast<std::size_t>(p)];
    if (part.outputs == 0) continue;
    vectors = vectors && in_vectors<T>(products.k, {part.weight});
    results += static_cast<int>(part.outputs);
    a.weights[a.parts] = static_cast<const T*>(part.weight);
    a.y[a.parts] = part.y;
    a.end[a.parts] = results;
    ++a.parts;
  }
  if (results == 0) return;
  if (vectors)
    launch_early<&products_of_row<T, Out, true>>(blocks_of(results), threads, 0, native(stream), a);
  else
    launch_early<&products_of_row<T, Out, false>>(blocks_of(results), threads, 0, native(stream),
                                                  a);
}

template <class T>
Chosen<T> chosen_of(const ChosenMatrices& matrices, const void* x, void* y, bool accumulate) {
  return {.weights = static_cast<const T*>(matrices.weights),
          .chosen = matrices.chosen,
          .x = static_cast<const T*>(x),
          .y = static_cast<T*>(y),
          .count = static_cast<int>(matrices.count),
          .outputs = static_cast<int>(matrices.outputs),
          .k = static_cast<int>(matrices.k),
          .accumulate = accumulate};
}

}  // namespace

void multiply_row(const RowProducts& products, Stream& stream) {
  with_real(products.input, [&]<class T>(T) {
    if (products.output == products.input)
      launch_products<T, T>(products, stream);
    else
      launch_products<T, float>(products, stream);
  });
}

void multiply_by_chosen(const ChosenMatrices& matrices, const void* x, void* y, Stream& stream) {
  const std::int64_t results = matrices.count * matrices.outputs;
  if (results == 0) return;
  with_real(matrices.dtype, [&]<class T>(T) {
    const Chosen<T> a = chosen_of<T>(matrices, x, y, false);
    if (in_vectors<T>(a.k, {a.weights, a.x}))
      launch_early<&products_of_chosen<T, true>>(blocks_of(results), threads, 0, native(stream), a);
    else
      launch_early<&products_of_chosen<T, false>>(blocks_of(results), threads, 0, native(stream),
                                                  a);
  });
}

void add_chosen_products(const ChosenMatrices& matrices, const void* x, bool accumulate, void* y,
                         Stream& stream) {
  if (matrices.outputs == 0) return;
  with_real(matrices.dtype, [&]<class T>(T) {
    const Chosen<T> a = chosen_of<T>(matrices, x, y, accumulate);
    const unsigned blocks = blocks_of(a.outputs);
    if (in_vectors<T>(a.k, {a.weights, a.x}))
      launch_early<&sums_of_chosen<T, true>>(blocks, threads, 0, native(stream), a);
    else
      launch_early<&sums_of_chosen<T, false>>(blocks, threads, 0, native(stream), a);
  });
}

}  // namespace polymoe::cuda

namespace polymoe::detail {

void row_products(CudaBackend, const Tensor& x, std::span<const RowProduct> products,
                  Stream& stream) {
  // One kernel for those of one output dtype.
  for (const DType output : {DType::bf16, DType::f32}) {
    cuda::RowProducts call{};
    call.x = x.raw();
    call.k = x.dim(1);
    call.input = x.dtype();
    call.output = output;
    for (const RowProduct& product : products) {
      if (product.y.dtype() != output) continue;
      call.parts[static_cast<std::size_t>(call.count++)] = {product.weight.raw(), product.y.raw(),
                                                            product.weight.dim(0)};
    }
    if (call.count > 0) cuda::multiply_row(call, stream);
  }
}

}  // namespace polymoe::detail
