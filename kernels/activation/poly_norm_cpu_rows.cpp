// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_cpu_rows.h"

#include <cstddef>
#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/cpu/real_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/poly_norm_cpu_rows.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/activation/poly_norm_formulas-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

// The sums of a row's vectors, in lanes; then of the lanes.
template <int n, class D>
struct RowSums {
  explicit RowSums(D lanes) : d(lanes) {
    for (auto& sum : vectors) sum = hn::Zero(d);
  }
  void finish() {
    for (int i = 0; i < n; ++i) total[i] = static_cast<double>(sum_of_lanes(d, vectors[i]));
  }
  D d;
  hn::Vec<D> vectors[n];
  double total[n];
};

template <class T>
double scale_of(const T* row_scale, std::int64_t row) {
  return row_scale == nullptr ? 1.0 : static_cast<double>(row_scale[row]);
}

// The second pass finds the row in cache.
template <template <class> class Inner, int order, class T>
void forward(double epsilon, const ActivationForwardRows<T>& a) {
  using Math = VectorMath<T>;
  const hn::ScalableTag<T> d;
  const Inner<Math> inner(nullptr);
  const bool streaming = can_stream(d, a.streaming, a.y, a.y_stride);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    T* y = a.y + r * a.y_stride;
    RowSums<order, decltype(d)> even(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      add_even_powers<Math, order>(inner.value(load(d, x + i, lanes)), even.vectors);
    });
    even.finish();
    const PolyNormValue<Math, order> row(a.coefficients, even.total, static_cast<double>(a.width),
                                         epsilon, scale_of(a.row_scale, r));
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      store(row.value_at(inner.value(load(d, x + i, lanes))), d, y + i, lanes, streaming);
    });
  }
  if (streaming) hwy::FlushStream();
}

template <template <class> class Inner, int order, class T>
void backward(double epsilon, const ActivationBackwardRows<T>& a) {
  using Math = VectorMath<T>;
  const hn::ScalableTag<T> d;
  const Inner<Math> inner(nullptr);
  const bool streaming = can_stream(d, a.streaming, a.d_x, a.width);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    const T* d_y = a.d_y + r * a.d_y_stride;
    T* d_x = a.d_x + r * a.width;
    T* y = a.y == nullptr ? nullptr : a.y + r * a.y_stride;
    RowSums<order, decltype(d)> even(d);
    RowSums<order + 1, decltype(d)> powers(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto t = inner.value(load(d, x + i, lanes));
      add_even_powers<Math, order>(t, even.vectors);
      add_gradient_powers<Math, order>(t, load(d, d_y + i, lanes), powers.vectors);
    });
    even.finish();
    powers.finish();
    const PolyNormGradient<Math, order> row(a.coefficients, even.total, powers.total,
                                            static_cast<double>(a.width), epsilon,
                                            scale_of(a.row_scale, r));
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      auto slope = hn::Zero(d);
      const auto t = inner.value_and_slope(load(d, x + i, lanes), slope);
      const auto g = load(d, d_y + i, lanes);
      store(row.gradient_at(t, slope, g), d, d_x + i, lanes, streaming);
      if (y != nullptr) store(row.value_at(t), d, y + i, lanes, false);
    });
    if (a.d_row_scale != nullptr) a.d_row_scale[r] = static_cast<T>(row.d_scale);
    if (a.d_coefficients != nullptr) {
      for (int p = 0; p <= order; ++p) a.d_coefficients[p] += row.d_a[p];
    }
  }
  if (streaming) hwy::FlushStream();
}

template <template <class> class Inner, class T>
void forward_of_order(const Activation& activation, const ActivationForwardRows<T>& a) {
  if (activation.order == 2) return forward<Inner, 2>(activation.epsilon, a);
  if (activation.order == 3) return forward<Inner, 3>(activation.epsilon, a);
  forward<Inner, 4>(activation.epsilon, a);
}

template <template <class> class Inner, class T>
void backward_of_order(const Activation& activation, const ActivationBackwardRows<T>& a) {
  if (activation.order == 2) return backward<Inner, 2>(activation.epsilon, a);
  if (activation.order == 3) return backward<Inner, 3>(activation.epsilon, a);
  backward<Inner, 4>(activation.epsilon, a);
}

template <class T>
void poly_norm_forward(const Activation& activation, const ActivationForwardRows<T>& a) {
  if (activation.kind == ActivationKind::polynorm) return forward_of_order<Identity>(activation, a);
  forward_of_order<Relu>(activation, a);
}

template <class T>
void poly_norm_backward(const Activation& activation, const ActivationBackwardRows<T>& a) {
  if (activation.kind == ActivationKind::polynorm) {
    return backward_of_order<Identity>(activation, a);
  }
  backward_of_order<Relu>(activation, a);
}

POLYMOE_REAL_VERSIONS(rows_forward, poly_norm_forward);
POLYMOE_REAL_VERSIONS(rows_backward, poly_norm_backward);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

namespace {

POLYMOE_DISPATCH_REAL(rows_forward)
POLYMOE_DISPATCH_REAL(rows_backward)

}  // namespace

template <class T>
void poly_norm_rows_forward(const Activation& activation, const ActivationForwardRows<T>& a) {
  rows_forward<T>(activation, a);
}
template void poly_norm_rows_forward(const Activation&, const ActivationForwardRows<float>&);
template void poly_norm_rows_forward(const Activation&, const ActivationForwardRows<double>&);

template <class T>
void poly_norm_rows_backward(const Activation& activation, const ActivationBackwardRows<T>& a) {
  rows_backward<T>(activation, a);
}
template void poly_norm_rows_backward(const Activation&, const ActivationBackwardRows<float>&);
template void poly_norm_rows_backward(const Activation&, const ActivationBackwardRows<double>&);

}  // namespace polymoe::cpu
#endif  // HWY_ONCE
