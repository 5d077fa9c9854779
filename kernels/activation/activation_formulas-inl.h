// SPDX-License-Identifier: Apache-2.0
// The formulas of the activations that act on one element, with their derivatives, each in one
// place. Included once per instruction set.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#if defined(POLYMOE_KERNELS_CPU_ACTIVATION_FORMULAS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_ACTIVATION_FORMULAS_INL_H_
#undef POLYMOE_KERNELS_CPU_ACTIVATION_FORMULAS_INL_H_
#else
#define POLYMOE_KERNELS_CPU_ACTIVATION_FORMULAS_INL_H_
#endif

#include <cmath>
#include <cstddef>

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A formula is made from (d, coefficients) and has
//   value(x)                   y
//   value_and_slope(x, slope)  y, and dy/dx
//   add_coefficient_sums(x, g, sums)   sums[i] += g dy/da_i
// NaN in, NaN out: comparisons are written so that NaN takes the branch that keeps x.

template <class D>
struct Formula {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  static constexpr int coefficients = 0;
  explicit Formula(D lanes) : d(lanes) {}
  HWY_INLINE V constant(double value) const { return hn::Set(d, static_cast<T>(value)); }
  HWY_INLINE V positive_part(V x) const { return hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), x); }
  HWY_INLINE void add_coefficient_sums(V, V, V*) const {}
  D d;
};

template <class D>
struct Relu : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  Relu(D lanes, const T*) : Formula<D>(lanes) {}
  HWY_INLINE V value(V x) const { return this->positive_part(x); }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    slope = hn::IfThenZeroElse(hn::Le(x, hn::Zero(this->d)), this->constant(1.0));
    return value(x);
  }
};

// x > 0 ? x : negative_slope * x
template <class D>
struct LeakyRelu : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  LeakyRelu(D lanes, const T*) : Formula<D>(lanes), negative_slope(this->constant(0.01)) {}
  HWY_INLINE V value(V x) const {
    V slope;
    return value_and_slope(x, slope);
  }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    slope = hn::IfThenElse(hn::Le(x, hn::Zero(this->d)), negative_slope, this->constant(1.0));
    return hn::Mul(x, slope);
  }
  V negative_slope;
};

template <class D>
struct PRelu : LeakyRelu<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  static constexpr int coefficients = 1;
  PRelu(D lanes, const T* slope) : LeakyRelu<D>(lanes, slope) {
    this->negative_slope = hn::Set(lanes, slope[0]);
  }
  HWY_INLINE V negative_part(V x) const {
    return hn::IfThenElseZero(hn::Le(x, hn::Zero(this->d)), x);
  }
  HWY_INLINE void add_coefficient_sums(V x, V g, V* sums) const {
    sums[0] = hn::MulAdd(g, negative_part(x), sums[0]);
  }
};

template <class D>
struct SquaredRelu : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  SquaredRelu(D lanes, const T*) : Formula<D>(lanes) {}
  HWY_INLINE V value(V x) const {
    const V t = this->positive_part(x);
    return hn::Mul(t, t);
  }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    const V t = this->positive_part(x);
    slope = hn::Add(t, t);
    return hn::Mul(t, t);
  }
};

// x Phi(x), Phi the distribution function of the standard normal.
template <class D>
struct Gelu : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  Gelu(D lanes, const T*) : Formula<D>(lanes) {}
  HWY_INLINE V value(V x) const {
    V slope;
    return value_and_slope(x, slope);
  }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    const V bell = hn::Exp(this->d, hn::Mul(this->constant(-0.5), hn::Mul(x, x)));
    const V distribution = phi(x, bell);
    const V density = hn::Mul(this->constant(0.398942280401432678), bell);
    slope = hn::MulAdd(x, density, distribution);
    return hn::Mul(x, distribution);
  }
  // f64 is for verification: the C library's erfc, element by element.
  HWY_INLINE hn::Vec<hn::ScalableTag<double>> phi(hn::Vec<hn::ScalableTag<double>> x,
                                                  hn::Vec<hn::ScalableTag<double>>) const {
    HWY_ALIGN double values[hn::MaxLanes(hn::ScalableTag<double>())];
    hn::Store(x, hn::ScalableTag<double>(), values);
    for (double& value : values) value = 0.5 * std::erfc(-value * 0.707106781186547524);
    return hn::Load(hn::ScalableTag<double>(), values);
  }
  // Near zero 1/2 + x Q(x^2), beyond |x| = 1.5 through exp(-x^2/2) t P(t), t = 1/(1 + 0.3
  // |x|/sqrt2); P and Q are minimax fits with errors of 2e-8 (relative) and 1e-9.
  HWY_INLINE hn::Vec<hn::ScalableTag<float>> phi(hn::Vec<hn::ScalableTag<float>> x,
                                                 hn::Vec<hn::ScalableTag<float>> bell) const {
    const V u = hn::Mul(x, x);
    const V center =
        hn::MulAdd(x,
                   horner(u, {0.3989422795, -0.06649033999, 0.00997326653, -0.001186535613,
                              0.0001143963222, -8.733937856e-06, 4.138552108e-07}),
                   this->constant(0.5));
    const V size = hn::Abs(x);
    const V t =
        hn::Div(this->constant(1.0),
                hn::MulAdd(size, this->constant(0.3 * 0.707106781186547524), this->constant(1.0)));
    const V p = horner(t, {0.1691880062, 0.1707152098, 0.1483392943, 0.2149255657, -0.09464955298,
                           0.5477183098, -0.5122765696, 0.4855624677, -0.1295227507});
    const V tail = hn::Mul(hn::Mul(this->constant(0.5), bell), hn::Mul(t, p));
    const V outside =
        hn::IfThenElse(hn::Lt(x, hn::Zero(this->d)), tail, hn::Sub(this->constant(1.0), tail));
    return hn::IfThenElse(hn::Lt(size, this->constant(1.5)), center, outside);
  }
  template <std::size_t n>
  HWY_INLINE V horner(V x, const double (&c)[n]) const {
    V sum = this->constant(c[n - 1]);
    for (std::size_t i = n - 1; i-- > 0;) sum = hn::MulAdd(sum, x, this->constant(c[i]));
    return sum;
  }
};

// x sigmoid(x); the sigmoid through exp(-|x|), which never overflows.
template <class D>
struct Silu : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  Silu(D lanes, const T*) : Formula<D>(lanes) {}
  HWY_INLINE V sigmoid(V x) const {
    const V one = this->constant(1.0);
    const V z = hn::Exp(this->d, hn::Neg(hn::Abs(x)));
    return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(this->d)), z, one), hn::Add(one, z));
  }
  HWY_INLINE V value(V x) const { return hn::Mul(x, sigmoid(x)); }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    const V s = sigmoid(x), y = hn::Mul(x, s);
    slope = hn::MulAdd(y, hn::Sub(this->constant(1.0), s), s);
    return y;
  }
};

// What a polynomial is taken of.
template <class D>
struct Identity : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  Identity(D lanes, const T*) : Formula<D>(lanes) {}
  HWY_INLINE V value(V x) const { return x; }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    slope = this->constant(1.0);
    return x;
  }
};

// sum_{i=0..order} a_i inner(x)^i; the coefficients of `inner` follow a_order.
template <class D, template <class> class Inner, int order>
struct Polynomial : Formula<D> {
  using typename Formula<D>::V, typename Formula<D>::T;
  static constexpr int coefficients = order + 1 + Inner<D>::coefficients;
  Polynomial(D lanes, const T* coefficient)
      : Formula<D>(lanes), inner(lanes, coefficient + order + 1) {
    for (int i = 0; i <= order; ++i) a[i] = hn::Set(lanes, coefficient[i]);
    for (int i = 1; i <= order; ++i) {
      slope_a[i - 1] = hn::Set(lanes, static_cast<T>(i) * coefficient[i]);
    }
  }
  HWY_INLINE V of(V t) const {
    V y = a[order];
    for (int i = order - 1; i >= 0; --i) y = hn::MulAdd(y, t, a[i]);
    return y;
  }
  HWY_INLINE V slope_of(V t) const {
    V y = slope_a[order - 1];
    for (int i = order - 2; i >= 0; --i) y = hn::MulAdd(y, t, slope_a[i]);
    return y;
  }
  HWY_INLINE V value(V x) const { return of(inner.value(x)); }
  HWY_INLINE V value_and_slope(V x, V& slope) const {
    V inner_slope;
    const V t = inner.value_and_slope(x, inner_slope);
    slope = hn::Mul(slope_of(t), inner_slope);
    return of(t);
  }
  HWY_INLINE void add_coefficient_sums(V x, V g, V* sums) const {
    const V t = inner.value(x);
    V term = g;
    for (int i = 0; i <= order; ++i) {
      sums[i] = hn::Add(sums[i], term);
      term = hn::Mul(term, t);
    }
    inner.add_coefficient_sums(x, hn::Mul(g, slope_of(t)), sums + order + 1);
  }
  V a[order + 1], slope_a[order];
  Inner<D> inner;
};

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // POLYMOE_KERNELS_CPU_ACTIVATION_FORMULAS_INL_H_
