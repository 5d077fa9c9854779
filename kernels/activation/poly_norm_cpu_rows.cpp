// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/activation/activation_cpu_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/poly_norm_cpu_rows.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/activation/activation_formulas-inl.h"
#include "kernels/cpu/vector_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

// With the row's r_p = rsqrt(mean(t^2p) + epsilon) known, y is a polynomial of t: the first pass
// over a row makes the sums, the second, while the row is still in cache, evaluates polynomials.
// t = x or relu(x).
template <class D, template <class> class Inner, int order>
class PolyNormRow {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

 public:
  explicit PolyNormRow(D lanes) : d(lanes), inner(lanes, nullptr) {
    for (V& sum : even_sums) sum = hn::Zero(d);
    for (V& sum : gradient_sums) sum = hn::Zero(d);
  }

  HWY_INLINE V inner_value(V x) const { return inner.value(x); }

  HWY_INLINE void add_even_powers(V t) {
    const V t2 = hn::Mul(t, t);
    V power = t2;
    even_sums[0] = hn::Add(even_sums[0], t2);
    for (int p = 2; p <= order; ++p) {
      // even_sums[p - 1] += t^(2p)
      even_sums[p - 1] = hn::MulAdd(power, t2, even_sums[p - 1]);
      if (p < order) power = hn::Mul(power, t2);
    }
  }

  HWY_INLINE void add_gradient_powers(V t, V g) {
    V term = g;
    gradient_sums[0] = hn::Add(gradient_sums[0], g);
    for (int p = 1; p <= order; ++p) {
      term = hn::Mul(term, t);
      gradient_sums[p] = hn::Add(gradient_sums[p], term);
    }
  }

  // Coefficients of the value's polynomial from the sums of the even powers.
  void finish_value(const T* a, std::int64_t width, double epsilon, double scale) {
    value[0] = hn::Set(d, static_cast<T>(scale * static_cast<double>(a[0])));
    for (int p = 1; p <= order; ++p) {
      const double mean = sum_of_lanes(d, even_sums[p - 1]) / static_cast<double>(width);
      r[p] = 1.0 / std::sqrt(mean + epsilon);
      value[p] = hn::Set(d, static_cast<T>(scale * static_cast<double>(a[p]) * r[p]));
    }
  }

  // Coefficients of the gradient's polynomials: d_x = g slope(t) - t pull(t^2).
  void finish_gradient(const T* a, std::int64_t width, double scale) {
    for (int p = 0; p <= order; ++p) s[p] = sum_of_lanes(d, gradient_sums[p]);
    for (int p = 1; p <= order; ++p) {
      const double ap = scale * static_cast<double>(a[p]);
      slope[p - 1] = hn::Set(d, static_cast<T>(ap * p * r[p]));
      pull[p - 1] = hn::Set(
          d, static_cast<T>(ap * p * r[p] * (r[p] * r[p] * s[p]) / static_cast<double>(width)));
    }
  }

  HWY_INLINE V value_at(V t) const {
    V y = value[order];
    for (int p = order - 1; p >= 0; --p) y = hn::MulAdd(y, t, value[p]);
    return y;
  }

  HWY_INLINE V gradient_at(V x, V t, V g) const {
    V inner_slope;
    inner.value_and_slope(x, inner_slope);
    const V t2 = hn::Mul(t, t);
    V direct = slope[order - 1], back = pull[order - 1];
    for (int p = order - 2; p >= 0; --p) {
      direct = hn::MulAdd(direct, t, slope[p]);
      back = hn::MulAdd(back, t2, pull[p]);
    }
    return hn::Mul(inner_slope, hn::NegMulAdd(t, back, hn::Mul(g, direct)));
  }

  D d;
  Inner<D> inner;
  V even_sums[order], gradient_sums[order + 1];
  V value[order + 1], slope[order], pull[order];
  double r[order + 1] = {}, s[order + 1] = {};
};

template <template <class> class Inner, int order, class T>
void forward(double epsilon, const ActivationForwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.y, a.y_stride);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    T* y = a.y + r * a.y_stride;
    PolyNormRow<decltype(d), Inner, order> row(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      row.add_even_powers(row.inner_value(load(d, x + i, lanes)));
    });
    row.finish_value(a.coefficients, a.width, epsilon,
                     a.row_scale == nullptr ? 1.0 : static_cast<double>(a.row_scale[r]));
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto t = row.inner_value(load(d, x + i, lanes));
      store(d, row.value_at(t), y + i, lanes, streaming);
    });
  }
  if (streaming) hwy::FlushStream();
}

template <template <class> class Inner, int order, class T>
void backward(double epsilon, const ActivationBackwardRows<T>& a) {
  const hn::ScalableTag<T> d;
  const bool streaming = can_stream(d, a.streaming, a.d_x, a.width);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.x + r * a.width;
    const T* d_y = a.d_y + r * a.d_y_stride;
    T* d_x = a.d_x + r * a.width;
    T* y = a.y == nullptr ? nullptr : a.y + r * a.y_stride;
    const double scale = a.row_scale == nullptr ? 1.0 : static_cast<double>(a.row_scale[r]);
    PolyNormRow<decltype(d), Inner, order> row(d);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto t = row.inner_value(load(d, x + i, lanes));
      row.add_even_powers(t);
      row.add_gradient_powers(t, load(d, d_y + i, lanes));
    });
    row.finish_value(a.coefficients, a.width, epsilon, scale);
    row.finish_gradient(a.coefficients, a.width, scale);
    for_each_vector(d, a.width, [&](std::size_t i, auto lanes) POLYMOE_VECTOR_LAMBDA {
      const auto xi = load(d, x + i, lanes);
      const auto t = row.inner_value(xi);
      const auto g = load(d, d_y + i, lanes);
      store(d, row.gradient_at(xi, t, g), d_x + i, lanes, streaming);
      if (y != nullptr) store(d, row.value_at(t), y + i, lanes, false);
    });
    double d_scale = static_cast<double>(a.coefficients[0]) * row.s[0];
    for (int p = 1; p <= order; ++p) {
      d_scale += static_cast<double>(a.coefficients[p]) * row.r[p] * row.s[p];
    }
    if (a.d_row_scale != nullptr) a.d_row_scale[r] = static_cast<T>(d_scale);
    if (a.d_coefficients != nullptr) {
      a.d_coefficients[0] += scale * row.s[0];
      for (int p = 1; p <= order; ++p) a.d_coefficients[p] += scale * row.r[p] * row.s[p];
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

void poly_norm_forward_f32(const Activation& activation, const ActivationForwardRows<float>& a) {
  poly_norm_forward(activation, a);
}
void poly_norm_forward_f64(const Activation& activation, const ActivationForwardRows<double>& a) {
  poly_norm_forward(activation, a);
}
void poly_norm_backward_f32(const Activation& activation, const ActivationBackwardRows<float>& a) {
  poly_norm_backward(activation, a);
}
void poly_norm_backward_f64(const Activation& activation, const ActivationBackwardRows<double>& a) {
  poly_norm_backward(activation, a);
}

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

HWY_EXPORT(poly_norm_forward_f32);
HWY_EXPORT(poly_norm_forward_f64);
HWY_EXPORT(poly_norm_backward_f32);
HWY_EXPORT(poly_norm_backward_f64);

void poly_norm_rows_forward(const Activation& activation, const ActivationForwardRows<float>& a) {
  HWY_DYNAMIC_DISPATCH(poly_norm_forward_f32)(activation, a);
}

void poly_norm_rows_forward(const Activation& activation, const ActivationForwardRows<double>& a) {
  HWY_DYNAMIC_DISPATCH(poly_norm_forward_f64)(activation, a);
}

void poly_norm_rows_backward(const Activation& activation, const ActivationBackwardRows<float>& a) {
  HWY_DYNAMIC_DISPATCH(poly_norm_backward_f32)(activation, a);
}

void poly_norm_rows_backward(const Activation& activation,
                             const ActivationBackwardRows<double>& a) {
  HWY_DYNAMIC_DISPATCH(poly_norm_backward_f64)(activation, a);
}

}  // namespace polymoe::cpu
#endif  // HWY_ONCE
