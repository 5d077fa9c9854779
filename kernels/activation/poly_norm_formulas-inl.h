// SPDX-License-Identifier: Apache-2.0
// PolyNorm on one row, for every backend; see activation_formulas-inl.h. With the row's
// r_p = rsqrt(mean(t^2p) + epsilon) known, y and d_x are polynomials of t = x or relu(x): the first
// pass over a row makes the sums, the second evaluates polynomials.
#if defined(POLYMOE_KERNELS_POLY_NORM_FORMULAS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_POLY_NORM_FORMULAS_INL_H_
#undef POLYMOE_KERNELS_POLY_NORM_FORMULAS_INL_H_
#else
#define POLYMOE_KERNELS_POLY_NORM_FORMULAS_INL_H_
#endif

#include "kernels/activation/activation_formulas-inl.h"

#ifdef __CUDACC__
namespace polymoe::cuda {
#else
HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
#endif
namespace {

// sums[p - 1] += t^(2p), p = 1 .. order
template <class Math, int order, class V = typename Math::Value>
POLYMOE_FORMULA void add_even_powers(V t, V* sums) {
  const V t2 = Math::multiply(t, t);
  V power = t2;
  sums[0] = Math::add(sums[0], t2);
  for (int p = 2; p <= order; ++p) {
    sums[p - 1] = Math::multiply_add(power, t2, sums[p - 1]);
    if (p < order) power = Math::multiply(power, t2);
  }
}

// sums[p] += g t^p, p = 0 .. order
template <class Math, int order, class V = typename Math::Value>
POLYMOE_FORMULA void add_gradient_powers(V t, V g, V* sums) {
  V term = g;
  sums[0] = Math::add(sums[0], g);
  for (int p = 1; p <= order; ++p) {
    term = Math::multiply(term, t);
    sums[p] = Math::add(sums[p], term);
  }
}

// scale y = polynomial(value, t)
template <class Math, int order>
struct PolyNormValue {
  using V = typename Math::Value;
  using Scalar = typename Math::Scalar;
  using Statistic = typename Math::Statistic;
  using Count = typename Math::Count;

  // From the coefficients a_0 .. a_order and the sums of the even powers over the row.
  POLYMOE_FORMULA PolyNormValue(const Scalar* a, const Statistic* even_sums, Count width,
                                Statistic epsilon, Statistic scale) {
    value[0] = Math::set(scale * static_cast<Statistic>(a[0]));
    for (int p = 1; p <= order; ++p) {
      inverse_roots[p - 1] = Math::inverse_root_mean(even_sums[p - 1], width, epsilon);
      value[p] = Math::set(scale * static_cast<Statistic>(a[p]) * inverse_roots[p - 1]);
    }
  }
  POLYMOE_FORMULA V value_at(V t) const { return polynomial<Math, order>(value, t); }

  V value[order + 1];
  Statistic inverse_roots[order];  // r_1 .. r_order
};

// scale d_x = inner'(x) (g polynomial(slope, t) - t polynomial(pull, t^2))
template <class Math, int order>
struct PolyNormGradient : PolyNormValue<Math, order> {
  using typename PolyNormValue<Math, order>::V, typename PolyNormValue<Math, order>::Scalar;
  using typename PolyNormValue<Math, order>::Statistic, typename PolyNormValue<Math, order>::Count;

  // From the sums S_p of the gradient's powers too.
  POLYMOE_FORMULA PolyNormGradient(const Scalar* a, const Statistic* even_sums,
                                   const Statistic* gradient_sums, Count width, Statistic epsilon,
                                   Statistic scale)
      : PolyNormValue<Math, order>(a, even_sums, width, epsilon, scale) {
    d_a[0] = scale * gradient_sums[0];
    d_scale = static_cast<Statistic>(a[0]) * gradient_sums[0];
    for (int p = 1; p <= order; ++p) {
      const Statistic r = this->inverse_roots[p - 1], s = gradient_sums[p];
      const Statistic slope_p =
          scale * static_cast<Statistic>(a[p]) * static_cast<Statistic>(p) * r;
      slope[p - 1] = Math::set(slope_p);
      pull[p - 1] = Math::set(Math::mean(slope_p * (r * r * s), width));
      d_a[p] = scale * r * s;
      d_scale += static_cast<Statistic>(a[p]) * r * s;
    }
  }
  // The gradient of x, given t = inner(x), that function's slope at x, and g.
  POLYMOE_FORMULA V gradient_at(V t, V inner_slope, V g) const {
    const V direct = polynomial<Math, order - 1>(slope, t);
    const V back = polynomial<Math, order - 1>(pull, Math::multiply(t, t));
    return Math::multiply(inner_slope, Math::subtract_product(t, back, Math::multiply(g, direct)));
  }

  V slope[order], pull[order];
  Statistic d_a[order + 1];  // the row's share of the coefficients' gradients
  Statistic d_scale;         // <g, activation(x)>
};

}  // namespace
#ifdef __CUDACC__
}  // namespace polymoe::cuda
#else
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // POLYMOE_KERNELS_POLY_NORM_FORMULAS_INL_H_
