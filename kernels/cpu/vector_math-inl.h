// SPDX-License-Identifier: Apache-2.0
// The arithmetic of formulas that the backends share, on vectors. Included once per instruction set
// by Highway's foreach_target.h, hence the unusual guard.
#if defined(POLYMOE_KERNELS_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef POLYMOE_KERNELS_CPU_VECTOR_MATH_INL_H_
#undef POLYMOE_KERNELS_CPU_VECTOR_MATH_INL_H_
#else
#define POLYMOE_KERNELS_CPU_VECTOR_MATH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#undef POLYMOE_FORMULA
#define POLYMOE_FORMULA HWY_INLINE

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

/// What a formula is written in. Its twin is cuda::DeviceMath.
template <class T>
struct VectorMath {
  using Lanes = hn::ScalableTag<T>;
  using Value = hn::Vec<Lanes>;  // of elements, side by side
  using Scalar = T;              // of coefficients
  using Statistic = double;      // of sums over a row
  using Count = double;          // of a row's elements

  POLYMOE_FORMULA static Value constant(double value) {
    return hn::Set(Lanes(), static_cast<T>(value));
  }
  POLYMOE_FORMULA static Value set(Statistic value) { return constant(value); }
  POLYMOE_FORMULA static Value add(Value a, Value b) { return hn::Add(a, b); }
  POLYMOE_FORMULA static Value subtract(Value a, Value b) { return hn::Sub(a, b); }
  POLYMOE_FORMULA static Value multiply(Value a, Value b) { return hn::Mul(a, b); }
  POLYMOE_FORMULA static Value divide(Value a, Value b) { return hn::Div(a, b); }
  /// a b + c
  POLYMOE_FORMULA static Value multiply_add(Value a, Value b, Value c) {
    return hn::MulAdd(a, b, c);
  }
  /// c - a b
  POLYMOE_FORMULA static Value subtract_product(Value a, Value b, Value c) {
    return hn::NegMulAdd(a, b, c);
  }
  /// x > 0 or NaN ? yes : no. NaN takes the branch that keeps x.
  POLYMOE_FORMULA static Value if_positive(Value x, Value yes, Value no) {
    return hn::IfThenElse(hn::Le(x, hn::Zero(Lanes())), no, yes);
  }
  /// x < 0 ? yes : no
  POLYMOE_FORMULA static Value if_negative(Value x, Value yes, Value no) {
    return hn::IfThenElse(hn::Lt(x, hn::Zero(Lanes())), yes, no);
  }
  POLYMOE_FORMULA static Value exp(Value x) { return hn::Exp(Lanes(), x); }
  /// exp(-|x|), which never overflows.
  POLYMOE_FORMULA static Value exp_of_minus_size(Value x) { return exp(hn::Neg(hn::Abs(x))); }

  /// The distribution function of the standard normal, from bell = exp(-x^2/2) too.
  /// f64 is for verification: the C library's erfc, element by element.
  POLYMOE_FORMULA static hn::Vec<hn::ScalableTag<double>> normal_distribution(
      hn::Vec<hn::ScalableTag<double>> x, hn::Vec<hn::ScalableTag<double>>) {
    const hn::ScalableTag<double> d;
    HWY_ALIGN double values[hn::MaxLanes(d)];
    hn::Store(x, d, values);
    for (double& value : values) value = 0.5 * std::erfc(-value * 0.707106781186547524);
    return hn::Load(d, values);
  }
  /// Near zero 1/2 + x Q(x^2), beyond |x| = 1.5 through bell t P(t), t = 1/(1 + 0.3 |x|/sqrt2);
  /// P and Q are minimax fits with errors of 2e-8 (relative) and 1e-9.
  POLYMOE_FORMULA static hn::Vec<hn::ScalableTag<float>> normal_distribution(
      hn::Vec<hn::ScalableTag<float>> x, hn::Vec<hn::ScalableTag<float>> bell) {
    const Value one = constant(1.0), half = constant(0.5);
    const Value center = multiply_add(
        x,
        horner(multiply(x, x), {0.3989422795, -0.06649033999, 0.00997326653, -0.001186535613,
                                0.0001143963222, -8.733937856e-06, 4.138552108e-07}),
        half);
    const Value size = hn::Abs(x);
    const Value t = divide(one, multiply_add(size, constant(0.3 * 0.707106781186547524), one));
    const Value p =
        horner(t, {0.1691880062, 0.1707152098, 0.1483392943, 0.2149255657, -0.09464955298,
                   0.5477183098, -0.5122765696, 0.4855624677, -0.1295227507});
    const Value tail = multiply(multiply(half, bell), multiply(t, p));
    const Value outside = if_negative(x, tail, subtract(one, tail));
    return hn::IfThenElse(hn::Lt(size, constant(1.5)), center, outside);
  }

  static Statistic mean(Statistic sum, Count count) { return sum / count; }
  /// 1 / sqrt(mean + epsilon)
  static Statistic inverse_root_mean(Statistic sum, Count count, Statistic epsilon) {
    return 1.0 / std::sqrt(sum / count + epsilon);
  }

 private:
  template <std::size_t n>
  POLYMOE_FORMULA static Value horner(Value x, const double (&c)[n]) {
    Value sum = constant(c[n - 1]);
    for (std::size_t i = n - 1; i-- > 0;) sum = multiply_add(sum, x, constant(c[i]));
    return sum;
  }
};

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // POLYMOE_KERNELS_CPU_VECTOR_MATH_INL_H_
