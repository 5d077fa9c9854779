// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_cpu_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/cpu/real_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/activation_cpu_rows.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/activation/activation_formulas-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

// Rows of a gated formula are [gate, up].
template <class Formula, class T>
void forward(const Formula& f, const ActivationForwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.y, a.y_stride);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + (Formula::gated ? 2 : 1) * r * a.width;
    T* y = a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      auto value = f.value(load(d, x + i, lanes));
      if constexpr (Formula::gated) value = hn::Mul(value, load(d, x + a.width + i, lanes));
      store(hn::Mul(scale, value), d, y + i, lanes, streaming);
    });
  }
  if (streaming) hwy::FlushStream();
}

template <class Formula, class T>
void backward(const Formula& f, const ActivationBackwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.d_x, a.width);
  const bool wants_sums = Formula::coefficients > 0 && a.d_coefficients != nullptr;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + (Formula::gated ? 2 : 1) * r * a.width;
    const T* d_y = a.d_y + r * a.d_y_stride;
    T* d_x = a.d_x + (Formula::gated ? 2 : 1) * r * a.width;
    T* y = a.y == nullptr ? nullptr : a.y + r * a.y_stride;
    const auto scale = hn::Set(d, a.row_scale == nullptr ? T{1} : a.row_scale[r]);
    auto d_scale = hn::Zero(d);
    hn::Vec<decltype(d)> sums[std::max(Formula::coefficients, 1)];
    for (auto& sum : sums) sum = hn::Zero(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto xi = load(d, x + i, lanes);
      const auto gi = load(d, d_y + i, lanes);
      auto slope = xi;
      auto value = f.value_and_slope(xi, slope);
      const auto scaled = hn::Mul(scale, gi);
      if constexpr (Formula::gated) {
        const auto up = load(d, x + a.width + i, lanes);
        store(hn::Mul(hn::Mul(scaled, up), slope), d, d_x + i, lanes, streaming);
        store(hn::Mul(scaled, value), d, d_x + a.width + i, lanes, streaming);
        value = hn::Mul(value, up);
      } else {
        store(hn::Mul(scaled, slope), d, d_x + i, lanes, streaming);
      }
      if (y != nullptr) store(hn::Mul(scale, value), d, y + i, lanes, false);
      d_scale = hn::MulAdd(gi, value, d_scale);
      if (wants_sums) f.add_coefficient_sums(xi, scaled, sums);
    });
    if (a.d_row_scale != nullptr) a.d_row_scale[r] = sum_of_lanes(d, d_scale);
    if (wants_sums) {
      for (int i = 0; i < Formula::coefficients; ++i) {
        a.d_coefficients[i] += static_cast<double>(sum_of_lanes(d, sums[i]));
      }
    }
  }
  if (streaming) hwy::FlushStream();
}

template <class T>
void elementwise_forward(const Activation& activation, const ActivationForwardRows<T>& a) {
  with_formula<VectorMath<T>>(activation,
                              [&]<class Formula>() { forward(Formula(a.coefficients), a); });
}

template <class T>
void elementwise_backward(const Activation& activation, const ActivationBackwardRows<T>& a) {
  with_formula<VectorMath<T>>(activation,
                              [&]<class Formula>() { backward(Formula(a.coefficients), a); });
}

POLYMOE_REAL_VERSIONS(elements_forward, elementwise_forward);
POLYMOE_REAL_VERSIONS(elements_backward, elementwise_backward);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

namespace {

POLYMOE_DISPATCH_REAL(elements_forward)
POLYMOE_DISPATCH_REAL(elements_backward)

}  // namespace

template <class T>
void activation_rows_forward(const Activation& activation, const ActivationForwardRows<T>& a) {
  if (norms_rows(activation.kind)) return poly_norm_rows_forward(activation, a);
  elements_forward<T>(activation, a);
}
template void activation_rows_forward(const Activation&, const ActivationForwardRows<float>&);
template void activation_rows_forward(const Activation&, const ActivationForwardRows<double>&);

template <class T>
void activation_rows_backward(const Activation& activation, const ActivationBackwardRows<T>& a) {
  if (norms_rows(activation.kind)) return poly_norm_rows_backward(activation, a);
  elements_backward<T>(activation, a);
}
template void activation_rows_backward(const Activation&, const ActivationBackwardRows<float>&);
template void activation_rows_backward(const Activation&, const ActivationBackwardRows<double>&);

}  // namespace polymoe::cpu
#endif  // HWY_ONCE
