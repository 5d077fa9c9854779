// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm/rms_norm_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/rms_norm/rms_norm_backends.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void forward_row(const RmsNormForward<T>& a, std::int64_t row) {
  const hn::ScalableTag<T> d;
  const std::int64_t step = lanes(d), width = a.width, first = row * width;
  const T* x = a.x + first;
  auto squares = hn::Zero(d);
  if (a.delta != nullptr) {
    const T* delta = a.delta + first;
    T* sum = a.sum + first;
    for (std::int64_t i = 0; i < width; i += step) {
      const auto v = hn::Add(load(d, x + i, width - i), load(d, delta + i, width - i));
      store(v, d, sum + i, width - i);
      squares = hn::MulAdd(v, v, squares);
    }
    x = sum;
  } else {
    for (std::int64_t i = 0; i < width; i += step) {
      const auto v = load(d, x + i, width - i);
      squares = hn::MulAdd(v, v, squares);
    }
  }
  const double mean = static_cast<double>(sum_of_lanes(d, squares)) / static_cast<double>(width);
  const T inv_rms = static_cast<T>(1.0 / std::sqrt(mean + a.epsilon));
  a.inv_rms[row] = inv_rms;
  T* y = a.y + first;
  const auto scale = hn::Set(d, inv_rms);
  for (std::int64_t i = 0; i < width; i += step) {
    const auto xhat = hn::Mul(load(d, x + i, width - i), scale);
    store(hn::Mul(xhat, load(d, a.weight + i, width - i)), d, y + i, width - i);
  }
}

template <class T>
void forward_rows(const RmsNormForward<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) forward_row(a, row);
}

// d_weight [width] receives the sum over the rows.
template <class T>
void backward_rows(const RmsNormBackward<T>& a, std::int64_t begin, std::int64_t end, T* d_weight) {
  const hn::ScalableTag<T> d;
  const std::int64_t step = lanes(d), width = a.width;
  for (std::int64_t i = 0; i < width; i += step) store(hn::Zero(d), d, d_weight + i, width - i);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* d_y = a.d_y + row * width;
    const T* x = a.x + row * width;
    T* d_x = a.d_x + row * width;
    const auto inv_rms = hn::Set(d, a.inv_rms[row]);
    auto products = hn::Zero(d);
    for (std::int64_t i = 0; i < width; i += step) {
      const std::int64_t left = width - i;
      const auto g = load(d, d_y + i, left);
      const auto g_xhat = hn::Mul(g, hn::Mul(load(d, x + i, left), inv_rms));
      products = hn::MulAdd(g_xhat, load(d, a.weight + i, left), products);
      store(hn::Add(load(d, d_weight + i, left), g_xhat), d, d_weight + i, left);
    }
    const auto mean = hn::Set(d, sum_of_lanes(d, products) / static_cast<T>(width));
    for (std::int64_t i = 0; i < width; i += step) {
      const std::int64_t left = width - i;
      const auto g = hn::Mul(load(d, d_y + i, left), load(d, a.weight + i, left));
      const auto xhat = hn::Mul(load(d, x + i, left), inv_rms);
      auto result = hn::Mul(inv_rms, hn::NegMulAdd(xhat, mean, g));
      if (a.write == Write::accumulate) result = hn::Add(load(d, d_x + i, left), result);
      store(result, d, d_x + i, left);
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

constexpr std::int64_t rows_per_task = 16;

template <class T>
void forward_all(const RmsNormForward<T>& a, std::int64_t rows) {
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < rows; begin += rows_per_task) {
    forward<T>(a, begin, std::min(begin + rows_per_task, rows));
  }
}

template <class T>
void backward_all(const RmsNormBackward<T>& a, std::int64_t rows, std::int64_t blocks, T* partials,
                  T* d_weight) {
#pragma omp parallel for schedule(static)
  for (std::int64_t block = 0; block < blocks; ++block) {
    backward<T>(a, block * rows / blocks, (block + 1) * rows / blocks, partials + block * a.width);
  }
  add_column_sums(partials, blocks, a.width, d_weight);
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void rms_norm_forward(CpuBackend, const Tensor& x, const Tensor& weight, double epsilon, Tensor y,
                      Tensor inv_rms, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::forward_all(
        cpu::RmsNormForward<T>{x.dim(1), epsilon, x.data<T>(), nullptr, weight.data<T>(), nullptr,
                               y.data<T>(), inv_rms.data<T>()},
        x.dim(0));
  });
}

void add_rms_norm_forward(CpuBackend, const Tensor& x, const Tensor& delta, const Tensor& weight,
                          double epsilon, Tensor sum, Tensor y, Tensor inv_rms, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::forward_all(
        cpu::RmsNormForward<T>{x.dim(1), epsilon, x.data<T>(), delta.data<T>(), weight.data<T>(),
                               sum.data<T>(), y.data<T>(), inv_rms.data<T>()},
        x.dim(0));
  });
}

void rms_norm_backward(CpuBackend, const Tensor& d_y, const Tensor& x, const Tensor& inv_rms,
                       const Tensor& weight, Write write, Tensor d_x, Tensor d_weight,
                       Tensor partials, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::backward_all(
        cpu::RmsNormBackward<T>{x.dim(1), d_y.data<T>(), x.data<T>(), inv_rms.data<T>(),
                                weight.data<T>(), write, d_x.data<T>()},
        x.dim(0), partials.dim(0), partials.data<T>(), d_weight.data<T>());
  });
}

}  // namespace polymoe::detail
#endif
