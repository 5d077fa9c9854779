// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_backends.h"

#include "kernels/activation/activation_cuda_formulas.cuh"
#include "kernels/activation/poly_norm_cuda.h"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/cuda/row_blocks.cuh"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

template <class T>
struct Elements {
  const T* x;
  const T* d_y;  // backward
  T* out;        // y or d_x
  const float* coefficients;
  double* partial_sums;  // backward: [blocks, coefficients]
  int width;             // of y
  bool in_vectors;
};

// Elements of a block's rows, in vectors where rows are made of them.
template <class T, class Formula>
__global__ void __launch_bounds__(element_threads)
    forward(const __grid_constant__ RowBlocks blocks, const Elements<T> a) {
  using V = Vector<T>;
  const RowBlocks::Span span = blocks[blockIdx.x];
  const Formula formula(a.coefficients + span.group * Formula::coefficients);
  const std::int64_t begin = span.begin * a.width, count = (span.end - span.begin) * a.width;
  if (a.in_vectors) {
    const uint4* x = reinterpret_cast<const uint4*>(a.x + begin);
    uint4* y = reinterpret_cast<uint4*>(a.out + begin);
#pragma unroll 4
    for (std::int64_t i = threadIdx.x; i < count / V::size; i += element_threads) {
      float values[V::size];
      V::unpack(__ldcs(x + i), values);
#pragma unroll
      for (float& value : values) value = formula.value(value);
      __stcs(y + i, V::pack(values));
    }
  } else {
    for (std::int64_t i = begin + threadIdx.x; i < begin + count; i += element_threads) {
      a.out[i] = from_float<T>(formula.value(to_float(a.x[i])));
    }
  }
}

template <class T, class Formula>
__global__ void __launch_bounds__(element_threads)
    backward(const __grid_constant__ RowBlocks blocks, const Elements<T> a) {
  using V = Vector<T>;
  constexpr int n = Formula::coefficients;
  const RowBlocks::Span span = blocks[blockIdx.x];
  const Formula formula(a.coefficients + span.group * n);
  const std::int64_t begin = span.begin * a.width, count = (span.end - span.begin) * a.width;
  float sums[n + 1] = {};
  if (a.in_vectors) {
    const uint4* x = reinterpret_cast<const uint4*>(a.x + begin);
    const uint4* d_y = reinterpret_cast<const uint4*>(a.d_y + begin);
    uint4* d_x = reinterpret_cast<uint4*>(a.out + begin);
#pragma unroll 2
    for (std::int64_t i = threadIdx.x; i < count / V::size; i += element_threads) {
      float values[V::size], g[V::size];
      V::unpack(__ldcs(x + i), values);
      V::unpack(__ldcs(d_y + i), g);
#pragma unroll
      for (int j = 0; j < V::size; ++j) {
        formula.add_coefficient_sums(values[j], g[j], sums);
        values[j] = g[j] * formula.slope(values[j]);
      }
      __stcs(d_x + i, V::pack(values));
    }
  } else {
    for (std::int64_t i = begin + threadIdx.x; i < begin + count; i += element_threads) {
      const float value = to_float(a.x[i]), g = to_float(a.d_y[i]);
      formula.add_coefficient_sums(value, g, sums);
      a.out[i] = from_float<T>(g * formula.slope(value));
    }
  }
  if constexpr (n > 0) {
    __shared__ typename BlockSum<n, double>::Storage storage;
    double totals[n];
#pragma unroll
    for (int i = 0; i < n; ++i) totals[i] = sums[i];
    BlockSum<n, double>{storage}(totals);
    if (threadIdx.x == 0) {
      for (int i = 0; i < n; ++i) a.partial_sums[std::int64_t{blockIdx.x} * n + i] = totals[i];
    }
  }
}

// silu(gate) * up, rows [gate, up].
template <class T, bool in_vectors>
__global__ void __launch_bounds__(element_threads)
    swiglu_forward(const T* x, T* y, std::int64_t count, int width) {
  const Silu silu(nullptr);
  if constexpr (in_vectors) {
    using V = Vector<T>;
    const int units = width / V::size;
    for (std::int64_t i = first_element(); i < count / V::size; i += element_stride()) {
      const uint4* row = reinterpret_cast<const uint4*>(x) + i / units * 2 * units + i % units;
      float gates[V::size], ups[V::size];
      V::unpack(__ldcs(row), gates);
      V::unpack(__ldcs(row + units), ups);
#pragma unroll
      for (int j = 0; j < V::size; ++j) gates[j] = silu.value(gates[j]) * ups[j];
      __stcs(reinterpret_cast<uint4*>(y) + i, V::pack(gates));
    }
  } else {
    for (std::int64_t i = first_element(); i < count; i += element_stride()) {
      const T* row = x + i / width * 2 * width + i % width;
      y[i] = from_float<T>(silu.value(to_float(row[0])) * to_float(row[width]));
    }
  }
}

template <class T, bool in_vectors>
__global__ void __launch_bounds__(element_threads)
    swiglu_backward(const T* d_y, const T* x, T* d_x, std::int64_t count, int width) {
  const Silu silu(nullptr);
  if constexpr (in_vectors) {
    using V = Vector<T>;
    const int units = width / V::size;
    for (std::int64_t i = first_element(); i < count / V::size; i += element_stride()) {
      const std::int64_t at = i / units * 2 * units + i % units;
      const uint4* row = reinterpret_cast<const uint4*>(x) + at;
      uint4* d_row = reinterpret_cast<uint4*>(d_x) + at;
      float gates[V::size], ups[V::size], g[V::size];
      V::unpack(__ldcs(row), gates);
      V::unpack(__ldcs(row + units), ups);
      V::unpack(__ldcs(reinterpret_cast<const uint4*>(d_y) + i), g);
#pragma unroll
      for (int j = 0; j < V::size; ++j) {
        const float gate = gates[j];
        gates[j] = g[j] * ups[j] * silu.slope(gate);
        ups[j] = g[j] * silu.value(gate);
      }
      __stcs(d_row, V::pack(gates));
      __stcs(d_row + units, V::pack(ups));
    }
  } else {
    for (std::int64_t i = first_element(); i < count; i += element_stride()) {
      const std::int64_t at = i / width * 2 * width + i % width;
      const float gate = to_float(x[at]), up = to_float(x[at + width]), g = to_float(d_y[i]);
      d_x[at] = from_float<T>(g * up * silu.slope(gate));
      d_x[at + width] = from_float<T>(g * silu.value(gate));
    }
  }
}

PolyNorm poly_norm_of(const Activation& activation) {
  return {activation.order, activation.epsilon, activation.kind == ActivationKind::polyrelunorm};
}

bool is_poly_norm(const Activation& activation) {
  return activation.kind == ActivationKind::polynorm ||
         activation.kind == ActivationKind::polyrelunorm;
}

// One set of coefficients, or none, makes one group of all rows.
std::vector<std::int64_t> groups_of(const Tensor& coefficients,
                                    const std::vector<std::int64_t>& offsets) {
  if (!coefficients.defined() || coefficients.dim(0) == 1) return {offsets.front(), offsets.back()};
  return offsets;
}

// Elements of a block of the element-wise kernels, about; a few per thread hide each other's waits.
constexpr std::int64_t elements_per_block = 16384;

template <class T>
Elements<T> elements_of(const Activation& activation, const Tensor& x, const Tensor& coefficients) {
  Elements<T> a{};
  a.x = static_cast<const T*>(x.raw());
  a.coefficients = coefficient_count(activation) > 0 ? coefficients.data<float>() : nullptr;
  a.width = static_cast<int>(x.dim(1));
  return a;
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void activation_forward(CudaBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        Tensor y, Stream& stream) {
  if (x.elements() == 0) return;
  if (cuda::is_poly_norm(activation)) {
    cuda::poly_norm_rows_forward(cuda::poly_norm_of(activation), x, coefficients, group_offsets, y,
                                 stream);
    return;
  }
  const auto native = static_cast<cudaStream_t>(stream.native());
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const bool vectors = cuda::in_vectors<T>(y.dim(1), {x.raw(), y.raw()});
    if (activation.kind == ActivationKind::swiglu) {
      const auto* from = static_cast<const T*>(x.raw());
      auto* to = static_cast<T*>(y.raw());
      const auto width = static_cast<int>(y.dim(1));
      const unsigned grid =
          cuda::element_blocks(y.elements(), vectors ? 2 * cuda::Vector<T>::size : 2);
      if (vectors) {
        cuda::swiglu_forward<T, true>
            <<<grid, cuda::element_threads, 0, native>>>(from, to, y.elements(), width);
      } else {
        cuda::swiglu_forward<T, false>
            <<<grid, cuda::element_threads, 0, native>>>(from, to, y.elements(), width);
      }
      return;
    }
    cuda::Elements<T> elements = cuda::elements_of<T>(activation, x, coefficients);
    elements.out = static_cast<T*>(y.raw());
    elements.in_vectors = vectors;
    const std::int64_t rows_per_block =
        std::max<std::int64_t>(1, cuda::elements_per_block / y.dim(1));
    cuda::for_each_part(
        cuda::groups_of(coefficients, group_offsets), rows_per_block,
        [&](const cuda::RowBlocks& blocks, std::int64_t first_group) {
          cuda::Elements<T> part = elements;
          part.coefficients += first_group * coefficient_count(activation);
          cuda::with_formula(activation, [&]<class Formula>() {
            cuda::forward<T, Formula>
                <<<static_cast<unsigned>(blocks.count()), cuda::element_threads, 0, native>>>(
                    blocks, part);
          });
        });
  });
  cuda::check_launch("activation_forward");
}

void activation_backward(CudaBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, Tensor d_x,
                         Tensor d_coefficients, const Tensor& partial_sums, Stream& stream) {
  if (x.elements() == 0) return;
  if (cuda::is_poly_norm(activation)) {
    cuda::poly_norm_rows_backward(cuda::poly_norm_of(activation), d_y, x, coefficients,
                                  group_offsets, d_x, d_coefficients, partial_sums, stream);
    return;
  }
  const auto native = static_cast<cudaStream_t>(stream.native());
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const bool vectors = cuda::in_vectors<T>(d_y.dim(1), {x.raw(), d_y.raw(), d_x.raw()});
    if (activation.kind == ActivationKind::swiglu) {
      const auto* gradient = static_cast<const T*>(d_y.raw());
      const auto* from = static_cast<const T*>(x.raw());
      auto* to = static_cast<T*>(d_x.raw());
      const auto width = static_cast<int>(d_y.dim(1));
      const unsigned grid =
          cuda::element_blocks(d_y.elements(), vectors ? 2 * cuda::Vector<T>::size : 2);
      if (vectors) {
        cuda::swiglu_backward<T, true>
            <<<grid, cuda::element_threads, 0, native>>>(gradient, from, to, d_y.elements(), width);
      } else {
        cuda::swiglu_backward<T, false>
            <<<grid, cuda::element_threads, 0, native>>>(gradient, from, to, d_y.elements(), width);
      }
      return;
    }
    const std::int64_t count = coefficient_count(activation);
    cuda::Elements<T> elements = cuda::elements_of<T>(activation, x, coefficients);
    elements.d_y = static_cast<const T*>(d_y.raw());
    elements.out = static_cast<T*>(d_x.raw());
    elements.partial_sums = count > 0 ? partial_sums.data<double>() : nullptr;
    elements.in_vectors = vectors;
    const std::int64_t max_blocks = RowTiles::max_partial_blocks;
    const std::int64_t rows_per_block =
        std::max((x.dim(0) + max_blocks - 1) / max_blocks,
                 std::max<std::int64_t>(1, cuda::elements_per_block / d_y.dim(1)));
    cuda::for_each_part(
        cuda::groups_of(coefficients, group_offsets), rows_per_block,
        [&](const cuda::RowBlocks& blocks, std::int64_t first_group) {
          cuda::Elements<T> part = elements;
          part.coefficients += first_group * count;
          cuda::with_formula(activation, [&]<class Formula>() {
            cuda::backward<T, Formula>
                <<<static_cast<unsigned>(blocks.count()), cuda::element_threads, 0, native>>>(
                    blocks, part);
          });
          if (count > 0) {
            cuda::add_partial_sums(blocks, part.partial_sums, static_cast<int>(count),
                                   d_coefficients.data<float>() + first_group * count, stream);
          }
        });
  });
  cuda::check_launch("activation_backward");
}

}  // namespace polymoe::detail
