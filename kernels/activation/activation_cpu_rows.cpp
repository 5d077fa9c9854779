// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_cpu_rows.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/activation_cpu_rows.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/activation/activation_formulas-inl.h"
#include "kernels/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class T, class Function>
void forward(const Function& f, const ActivationForwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.y, a.y_stride);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    T* y = a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      store(d, hn::Mul(scale, f.value(load(d, x + i, lanes))), y + i, lanes, streaming);
    });
  }
  if (streaming) hwy::FlushStream();
}

template <class T, class Function>
void backward(const Function& f, const ActivationBackwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.d_x, a.width);
  const bool wants_sums = Function::coefficients > 0 && a.d_coefficients != nullptr;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    const T* d_y = a.d_y + r * a.d_y_stride;
    T* d_x = a.d_x + r * a.width;
    T* y = a.y == nullptr ? nullptr : a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    auto d_scale = hn::Zero(d);
    hn::Vec<decltype(d)> sums[std::max(Function::coefficients, 1)];
    for (auto& sum : sums) sum = hn::Zero(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto xi = load(d, x + i, lanes);
      const auto gi = load(d, d_y + i, lanes);
      auto slope = xi;
      const auto value = f.value_and_slope(xi, slope);
      const auto scaled = hn::Mul(scale, gi);
      store(d, hn::Mul(scaled, slope), d_x + i, lanes, streaming);
      if (y != nullptr) store(d, hn::Mul(scale, value), y + i, lanes, false);
      d_scale = hn::MulAdd(gi, value, d_scale);
      if (wants_sums) f.add_coefficient_sums(xi, scaled, sums);
    });
    if (a.d_row_scale != nullptr) a.d_row_scale[r] = static_cast<T>(sum_of_lanes(d, d_scale));
    if (wants_sums) {
      for (int i = 0; i < Function::coefficients; ++i) {
        a.d_coefficients[i] += sum_of_lanes(d, sums[i]);
      }
    }
  }
  if (streaming) hwy::FlushStream();
}

// silu(gate) * up; a row of x is [gate, up].
template <class T>
void swiglu_forward(const ActivationForwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const Silu<decltype(d)> silu(d, nullptr);
  const bool streaming = can_stream(d, a.streaming, a.y, a.y_stride);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* gate = a.x + 2 * r * a.width;
    const T* up = gate + a.width;
    T* y = a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto product = hn::Mul(silu.value(load(d, gate + i, lanes)), load(d, up + i, lanes));
      store(d, hn::Mul(scale, product), y + i, lanes, streaming);
    });
  }
  if (streaming) hwy::FlushStream();
}

template <class T>
void swiglu_backward(const ActivationBackwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const Silu<decltype(d)> silu(d, nullptr);
  const bool streaming = can_stream(d, a.streaming, a.d_x, a.width);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* gate = a.x + 2 * r * a.width;
    const T* up = gate + a.width;
    const T* d_y = a.d_y + r * a.d_y_stride;
    T* d_gate = a.d_x + 2 * r * a.width;
    T* d_up = d_gate + a.width;
    T* y = a.y == nullptr ? nullptr : a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    auto d_scale = hn::Zero(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto u = load(d, up + i, lanes);
      const auto gi = load(d, d_y + i, lanes);
      auto slope = u;
      const auto s = silu.value_and_slope(load(d, gate + i, lanes), slope);
      const auto value = hn::Mul(s, u);
      const auto scaled = hn::Mul(scale, gi);
      store(d, hn::Mul(hn::Mul(scaled, u), slope), d_gate + i, lanes, streaming);
      store(d, hn::Mul(scaled, s), d_up + i, lanes, streaming);
      if (y != nullptr) store(d, hn::Mul(scale, value), y + i, lanes, false);
      d_scale = hn::MulAdd(gi, value, d_scale);
    });
    if (a.d_row_scale != nullptr) a.d_row_scale[r] = static_cast<T>(sum_of_lanes(d, d_scale));
  }
  if (streaming) hwy::FlushStream();
}

// Calls run(formula) for the element-wise activation.
template <class T, class Run>
void with_formula(const Activation& activation, const T* coefficients, const Run& run) {
  using D = hn::ScalableTag<T>;
  const D d;
  const auto polynomial = [&]<template <class> class Inner>() {
    if (activation.order == 2) return run(Polynomial<D, Inner, 2>(d, coefficients));
    if (activation.order == 3) return run(Polynomial<D, Inner, 3>(d, coefficients));
    run(Polynomial<D, Inner, 4>(d, coefficients));
  };
  switch (activation.kind) {
    case ActivationKind::relu:
      return run(Relu<D>(d, nullptr));
    case ActivationKind::leaky_relu:
      return run(LeakyRelu<D>(d, nullptr));
    case ActivationKind::prelu:
      return run(PRelu<D>(d, coefficients));
    case ActivationKind::relu2:
      return run(SquaredRelu<D>(d, nullptr));
    case ActivationKind::gelu:
      return run(Gelu<D>(d, nullptr));
    case ActivationKind::silu:
      return run(Silu<D>(d, nullptr));
    case ActivationKind::polyrelu:
      return polynomial.template operator()<Relu>();
    case ActivationKind::polyprelu:
      return polynomial.template operator()<PRelu>();
    case ActivationKind::polynomial:
      return polynomial.template operator()<Identity>();
    case ActivationKind::swiglu:
    case ActivationKind::polynorm:
    case ActivationKind::polyrelunorm:
      break;  // not element-wise
  }
}

template <class T>
void elementwise_forward(const Activation& activation, const ActivationForwardRows<T>& a) {
  if (activation.kind == ActivationKind::swiglu) return swiglu_forward(a);
  with_formula(activation, a.coefficients, [&](const auto& f) { forward(f, a); });
}

template <class T>
void elementwise_backward(const Activation& activation, const ActivationBackwardRows<T>& a) {
  if (activation.kind == ActivationKind::swiglu) return swiglu_backward(a);
  with_formula(activation, a.coefficients, [&](const auto& f) { backward(f, a); });
}

void forward_f32(const Activation& activation, const ActivationForwardRows<float>& a) {
  elementwise_forward(activation, a);
}
void forward_f64(const Activation& activation, const ActivationForwardRows<double>& a) {
  elementwise_forward(activation, a);
}
void backward_f32(const Activation& activation, const ActivationBackwardRows<float>& a) {
  elementwise_backward(activation, a);
}
void backward_f64(const Activation& activation, const ActivationBackwardRows<double>& a) {
  elementwise_backward(activation, a);
}

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

HWY_EXPORT(forward_f32);
HWY_EXPORT(forward_f64);
HWY_EXPORT(backward_f32);
HWY_EXPORT(backward_f64);

namespace {

bool is_row_norm(const Activation& activation) {
  return activation.kind == ActivationKind::polynorm ||
         activation.kind == ActivationKind::polyrelunorm;
}

}  // namespace

void activation_rows_forward(const Activation& activation, const ActivationForwardRows<float>& a) {
  if (is_row_norm(activation)) return poly_norm_rows_forward(activation, a);
  HWY_DYNAMIC_DISPATCH(forward_f32)(activation, a);
}

void activation_rows_forward(const Activation& activation, const ActivationForwardRows<double>& a) {
  if (is_row_norm(activation)) return poly_norm_rows_forward(activation, a);
  HWY_DYNAMIC_DISPATCH(forward_f64)(activation, a);
}

void activation_rows_backward(const Activation& activation,
                              const ActivationBackwardRows<float>& a) {
  if (is_row_norm(activation)) return poly_norm_rows_backward(activation, a);
  HWY_DYNAMIC_DISPATCH(backward_f32)(activation, a);
}

void activation_rows_backward(const Activation& activation,
                              const ActivationBackwardRows<double>& a) {
  if (is_row_norm(activation)) return poly_norm_rows_backward(activation, a);
  HWY_DYNAMIC_DISPATCH(backward_f64)(activation, a);
}

}  // namespace polymoe::cpu
#endif  // HWY_ONCE
