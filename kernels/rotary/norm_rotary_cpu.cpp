// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/rotary/norm_rotary_backends.h"
#include "kernels/rotary/rotary.h"
#include "kernels/rotary/rotary_cpu_pairs.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotary/norm_rotary_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class T>
T inv_rms_of(const T* x, std::int64_t width, double epsilon) {
  const hn::ScalableTag<T> d;
  auto squares = hn::Zero(d);
  for (std::int64_t i = 0; i < width; i += lanes(d)) {
    const auto v = load(d, x + i, width - i);
    squares = hn::MulAdd(v, v, squares);
  }
  const double mean = static_cast<double>(sum_of_lanes(d, squares)) / static_cast<double>(width);
  return static_cast<T>(1.0 / std::sqrt(mean + epsilon));
}

// Rows [begin, end), at most norm_rotary_rows, row by row, so that each angle follows from the
// one before. Heads of more than RotaryPairs::max_pairs pairs take several passes.
template <class T>
void forward_rows(const NormRotaryForward<T>& a, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<T> d;
  const std::int64_t step = lanes(d), width = a.heads * a.head_dim, half = a.head_dim / 2;
  for (std::int64_t first = 0; first < half; first += RotaryPairs<T>::max_pairs) {
    RotaryPairs<T> at(a.positions, false, a.head_dim, first, begin);
    for (std::int64_t row = begin; row < end; ++row, at.next_row()) {
      if (first == 0) a.inv_rms[row] = inv_rms_of(a.x + row * width, width, a.epsilon);
      const auto scale = hn::Set(d, a.inv_rms[row]);
      for (std::int64_t head = 0; head < a.heads; ++head) {
        const std::int64_t column = head * a.head_dim + first, low = row * width + column;
        for (std::int64_t i = 0; i < at.count(); i += step) {
          const std::int64_t left = at.count() - i;
          const auto cosine = load(d, at.cosines() + i, left);
          const auto sine = load(d, at.sines() + i, left);
          const auto l = hn::Mul(hn::Mul(load(d, a.x + low + i, left), scale),
                                 load(d, a.weight + column + i, left));
          const auto h = hn::Mul(hn::Mul(load(d, a.x + low + half + i, left), scale),
                                 load(d, a.weight + column + half + i, left));
          store(hn::MulSub(l, cosine, hn::Mul(h, sine)), d, a.y + low + i, left);
          store(hn::MulAdd(h, cosine, hn::Mul(l, sine)), d, a.y + low + half + i, left);
        }
      }
    }
  }
}

// One half of a head's pairs: the share of mean(g weight xhat), and d_weight += g xhat.
template <class D, class V, class T>
HWY_INLINE V add_products(D d, V g, const T* x, V inv_rms, const T* weight, T* d_weight,
                          std::int64_t left, V products) {
  const auto g_xhat = hn::Mul(g, hn::Mul(load(d, x, left), inv_rms));
  store(hn::Add(load(d, d_weight, left), g_xhat), d, d_weight, left);
  return hn::MulAdd(g_xhat, load(d, weight, left), products);
}

// d_x holds g on entry; mean: of g weight xhat.
template <class T>
void finish_row(const T* x, T inv_rms, const T* weight, T mean, std::int64_t width, T* d_x) {
  const hn::ScalableTag<T> d;
  const auto scale = hn::Set(d, inv_rms), all_mean = hn::Set(d, mean);
  for (std::int64_t i = 0; i < width; i += lanes(d)) {
    const std::int64_t left = width - i;
    const auto g = hn::Mul(load(d, d_x + i, left), load(d, weight + i, left));
    const auto xhat = hn::Mul(load(d, x + i, left), scale);
    store(hn::Mul(scale, hn::NegMulAdd(xhat, all_mean, g)), d, d_x + i, left);
  }
}

// As forward_rows. d_weight [width] is added to.
template <class T>
void backward_rows(const NormRotaryBackward<T>& a, std::int64_t begin, std::int64_t end,
                   T* d_weight) {
  const hn::ScalableTag<T> d;
  const std::int64_t step = lanes(d), width = a.heads * a.head_dim, half = a.head_dim / 2;
  T products[norm_rotary_rows] = {};
  for (std::int64_t first = 0; first < half; first += RotaryPairs<T>::max_pairs) {
    RotaryPairs<T> at(a.positions, true, a.head_dim, first, begin);
    for (std::int64_t row = begin; row < end; ++row, at.next_row()) {
      const auto inv_rms = hn::Set(d, a.inv_rms[row]);
      auto sum = hn::Zero(d);
      for (std::int64_t head = 0; head < a.heads; ++head) {
        for (std::int64_t i = 0; i < at.count(); i += step) {
          const std::int64_t left = at.count() - i, column = head * a.head_dim + first + i;
          const std::int64_t low = row * width + column, high = low + half;
          const auto cosine = load(d, at.cosines() + i, left);
          const auto sine = load(d, at.sines() + i, left);
          const auto l = load(d, a.d_y + low, left), h = load(d, a.d_y + high, left);
          const auto g_low = hn::MulSub(l, cosine, hn::Mul(h, sine));
          const auto g_high = hn::MulAdd(h, cosine, hn::Mul(l, sine));
          store(g_low, d, a.d_x + low, left);
          store(g_high, d, a.d_x + high, left);
          sum = add_products(d, g_low, a.x + low, inv_rms, a.weight + column, d_weight + column,
                             left, sum);
          sum = add_products(d, g_high, a.x + high, inv_rms, a.weight + column + half,
                             d_weight + column + half, left, sum);
        }
      }
      T& product = products[row - begin];
      product += sum_of_lanes(d, sum);
      if (first + at.count() < half) continue;
      finish_row(a.x + row * width, a.inv_rms[row], a.weight, product / static_cast<T>(width),
                 width, a.d_x + row * width);
    }
  }
}

POLYMOE_REAL_VERSIONS(forward, forward_rows);
POLYMOE_REAL_VERSIONS(backward, backward_rows);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {
namespace {

POLYMOE_DISPATCH_REAL(forward)
POLYMOE_DISPATCH_REAL(backward)

template <class T>
void forward_all(const NormRotaryForward<T>& a, std::int64_t rows) {
  constexpr std::int64_t tile = norm_rotary_rows;
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < rows; begin += tile) {
    forward<T>(a, begin, std::min(begin + tile, rows));
  }
}

template <class T>
void backward_all(const NormRotaryBackward<T>& a, std::int64_t rows, std::int64_t blocks,
                  T* partials, T* d_weight) {
  constexpr std::int64_t tile = norm_rotary_rows;
  const std::int64_t width = a.heads * a.head_dim;
#pragma omp parallel for schedule(static)
  for (std::int64_t block = 0; block < blocks; ++block) {
    T* partial = partials + block * width;
    std::fill(partial, partial + width, T{0});
    const std::int64_t end = (block + 1) * rows / blocks;
    for (std::int64_t begin = block * rows / blocks; begin < end; begin += tile) {
      backward<T>(a, begin, std::min(begin + tile, end), partial);
    }
  }
  add_column_sums(partials, blocks, width, d_weight);
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void norm_rotary_forward(CpuBackend, const RotaryPositions& positions, const Tensor& x,
                         const Tensor& weight, double epsilon, Tensor y, Tensor inv_rms, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::forward_all(cpu::NormRotaryForward<T>{positions, x.dim(1), x.dim(2), epsilon, x.data<T>(),
                                               weight.data<T>(), y.data<T>(), inv_rms.data<T>()},
                     x.dim(0));
  });
}

void norm_rotary_backward(CpuBackend, const RotaryPositions& positions, const Tensor& d_y,
                          const Tensor& x, const Tensor& inv_rms, const Tensor& weight, Tensor d_x,
                          Tensor d_weight, Tensor partials, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::backward_all(
        cpu::NormRotaryBackward<T>{positions, x.dim(1), x.dim(2), d_y.data<T>(), x.data<T>(),
                                   inv_rms.data<T>(), weight.data<T>(), d_x.data<T>()},
        x.dim(0), partials.dim(0), partials.data<T>(), d_weight.data<T>());
  });
}

}  // namespace polymoe::detail
#endif
