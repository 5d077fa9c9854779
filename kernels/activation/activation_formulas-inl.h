// SPDX-License-Identifier: Apache-2.0
// The activations that act on one element, with their derivatives: each formula once, for every
// backend. Math says what a value is and how to compute with it: VectorMath on the CPU, included
// once per instruction set, and DeviceMath on CUDA.
#if defined(POLYMOE_KERNELS_ACTIVATION_FORMULAS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_ACTIVATION_FORMULAS_INL_H_
#undef POLYMOE_KERNELS_ACTIVATION_FORMULAS_INL_H_
#else
#define POLYMOE_KERNELS_ACTIVATION_FORMULAS_INL_H_
#endif

#include <string>

#include "kernels/activation/activation.h"
#include "runtime/error.h"

#ifdef __CUDACC__
#include "kernels/cuda/device/math.cuh"
namespace polymoe::cuda {
#else
#include "kernels/cpu/vector_math-inl.h"
HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
#endif
namespace {

// A formula is made from its coefficients and has
//   value(x)                         y
//   value_and_slope(x, slope)        y, and dy/dx
//   add_coefficient_sums(x, g, sums) sums[i] += g dy/da_i
// A gated one is of [gate, up] rows, and y = value(gate) up. NaN in, NaN out.

template <class Math>
struct ElementFormula {
  using V = typename Math::Value;
  using Scalar = typename Math::Scalar;
  static constexpr int coefficients = 0;
  static constexpr bool gated = false;
  POLYMOE_FORMULA void add_coefficient_sums(V, V, V*) const {}
};

template <class Math>
struct Relu : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit Relu(const Scalar*) {}
  POLYMOE_FORMULA V value(V x) const { return Math::if_positive(x, x, Math::constant(0.0)); }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    slope = Math::if_positive(x, Math::constant(1.0), Math::constant(0.0));
    return value(x);
  }
};

// x > 0 ? x : negative_slope x
template <class Math>
struct LeakyRelu : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit LeakyRelu(const Scalar*) : negative_slope(Math::constant(0.01)) {}
  POLYMOE_FORMULA V value(V x) const {
    V slope;
    return value_and_slope(x, slope);
  }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    slope = Math::if_positive(x, Math::constant(1.0), negative_slope);
    return Math::multiply(x, slope);
  }
  V negative_slope;
};

template <class Math>
struct PRelu : LeakyRelu<Math> {
  using typename LeakyRelu<Math>::V, typename LeakyRelu<Math>::Scalar;
  static constexpr int coefficients = 1;
  POLYMOE_FORMULA explicit PRelu(const Scalar* a) : LeakyRelu<Math>(a) {
    this->negative_slope = Math::constant(static_cast<double>(a[0]));
  }
  POLYMOE_FORMULA void add_coefficient_sums(V x, V g, V* sums) const {
    const V negative_part = Math::if_positive(x, Math::constant(0.0), x);
    sums[0] = Math::multiply_add(g, negative_part, sums[0]);
  }
};

template <class Math>
struct SquaredRelu : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit SquaredRelu(const Scalar*) {}
  POLYMOE_FORMULA V value(V x) const {
    V slope;
    return value_and_slope(x, slope);
  }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    const V t = Math::if_positive(x, x, Math::constant(0.0));
    slope = Math::add(t, t);
    return Math::multiply(t, t);
  }
};

// x Phi(x), Phi the distribution function of the standard normal.
template <class Math>
struct Gelu : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit Gelu(const Scalar*) {}
  POLYMOE_FORMULA V value(V x) const {
    V slope;
    return value_and_slope(x, slope);
  }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    const V bell = Math::exp(Math::multiply(Math::constant(-0.5), Math::multiply(x, x)));
    const V distribution = Math::normal_distribution(x, bell);
    const V density = Math::multiply(Math::constant(0.398942280401432678), bell);
    slope = Math::multiply_add(x, density, distribution);
    return Math::multiply(x, distribution);
  }
};

// x sigmoid(x); the sigmoid through exp(-|x|), which never overflows.
template <class Math>
struct Silu : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit Silu(const Scalar*) {}
  POLYMOE_FORMULA V sigmoid(V x) const {
    const V one = Math::constant(1.0), z = Math::exp_of_minus_size(x);
    return Math::divide(Math::if_negative(x, z, one), Math::add(one, z));
  }
  POLYMOE_FORMULA V value(V x) const { return Math::multiply(x, sigmoid(x)); }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    const V s = sigmoid(x), y = Math::multiply(x, s);
    slope = Math::multiply_add(y, Math::subtract(Math::constant(1.0), s), s);
    return y;
  }
};

template <class Math>
struct SwiGlu : Silu<Math> {
  static constexpr bool gated = true;
  POLYMOE_FORMULA explicit SwiGlu(const typename Math::Scalar* a) : Silu<Math>(a) {}
};

// What a polynomial is taken of.
template <class Math>
struct Identity : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  POLYMOE_FORMULA explicit Identity(const Scalar*) {}
  POLYMOE_FORMULA V value(V x) const { return x; }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    slope = Math::constant(1.0);
    return x;
  }
};

// a[0] + a[1] t + ... + a[degree] t^degree
template <class Math, int degree>
POLYMOE_FORMULA typename Math::Value polynomial(const typename Math::Value (&a)[degree + 1],
                                                typename Math::Value t) {
  typename Math::Value y = a[degree];
  for (int i = degree - 1; i >= 0; --i) y = Math::multiply_add(y, t, a[i]);
  return y;
}

// sum_{i=0..order} a_i inner(x)^i; the coefficients of `inner` follow a_order.
template <class Math, template <class> class Inner, int order>
struct Polynomial : ElementFormula<Math> {
  using typename ElementFormula<Math>::V, typename ElementFormula<Math>::Scalar;
  static constexpr int coefficients = order + 1 + Inner<Math>::coefficients;
  POLYMOE_FORMULA explicit Polynomial(const Scalar* coefficient) : inner(coefficient + order + 1) {
    for (int i = 0; i <= order; ++i) a[i] = Math::constant(static_cast<double>(coefficient[i]));
    for (int i = 1; i <= order; ++i) {
      slope_a[i - 1] = Math::constant(static_cast<double>(static_cast<Scalar>(i) * coefficient[i]));
    }
  }
  POLYMOE_FORMULA V value(V x) const { return polynomial<Math, order>(a, inner.value(x)); }
  POLYMOE_FORMULA V value_and_slope(V x, V& slope) const {
    V inner_slope;
    const V t = inner.value_and_slope(x, inner_slope);
    slope = Math::multiply(polynomial<Math, order - 1>(slope_a, t), inner_slope);
    return polynomial<Math, order>(a, t);
  }
  POLYMOE_FORMULA void add_coefficient_sums(V x, V g, V* sums) const {
    const V t = inner.value(x);
    V term = g;
    for (int i = 0; i <= order; ++i) {
      sums[i] = Math::add(sums[i], term);
      term = Math::multiply(term, t);
    }
    inner.add_coefficient_sums(x, Math::multiply(g, polynomial<Math, order - 1>(slope_a, t)),
                               sums + order + 1);
  }
  V a[order + 1], slope_a[order];
  Inner<Math> inner;
};

/// Calls operation.template operator()<Formula>() with the activation's formula. Throws
/// InvalidArgument where it does not act on one element.
template <class Math, class Operation>
void with_formula(const Activation& activation, const Operation& operation) {
  const auto polynomial_of = [&]<template <class> class Inner>() {
    if (activation.order == 2) return operation.template operator()<Polynomial<Math, Inner, 2>>();
    if (activation.order == 3) return operation.template operator()<Polynomial<Math, Inner, 3>>();
    if (activation.order == 4) return operation.template operator()<Polynomial<Math, Inner, 4>>();
    throw InvalidArgument("no polynomial of order " + std::to_string(activation.order));
  };
  switch (activation.kind) {
    case ActivationKind::relu:
      return operation.template operator()<Relu<Math>>();
    case ActivationKind::leaky_relu:
      return operation.template operator()<LeakyRelu<Math>>();
    case ActivationKind::prelu:
      return operation.template operator()<PRelu<Math>>();
    case ActivationKind::relu2:
      return operation.template operator()<SquaredRelu<Math>>();
    case ActivationKind::gelu:
      return operation.template operator()<Gelu<Math>>();
    case ActivationKind::silu:
      return operation.template operator()<Silu<Math>>();
    case ActivationKind::swiglu:
      return operation.template operator()<SwiGlu<Math>>();
    case ActivationKind::polyrelu:
      return polynomial_of.template operator()<Relu>();
    case ActivationKind::polyprelu:
      return polynomial_of.template operator()<PRelu>();
    case ActivationKind::polynomial:
      return polynomial_of.template operator()<Identity>();
    case ActivationKind::polynorm:
    case ActivationKind::polyrelunorm:
      break;  // of a row: kernels/activation/poly_norm_formulas-inl.h
  }
  throw InvalidArgument(std::string(name_of(activation.kind)) + " does not act on one element");
}

}  // namespace
#ifdef __CUDACC__
}  // namespace polymoe::cuda
#else
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#endif  // POLYMOE_KERNELS_ACTIVATION_FORMULAS_INL_H_
