// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/activation/activation.h"

namespace polymoe::cuda {

// The activations that act on one element (or on a gate and an up value). A formula is made from
// its coefficients and has
//   value(x)                           y
//   slope(x)                           dy/dx
//   add_coefficient_sums(x, g, sums)   sums[i] += g dy/da_i
// NaN in, NaN out: comparisons are written so that NaN takes the branch that keeps x.

struct Relu {
  static constexpr int coefficients = 0;
  __device__ explicit Relu(const float*) {}
  __device__ float value(float x) const { return x <= 0.0F ? 0.0F : x; }
  __device__ float slope(float x) const { return x <= 0.0F ? 0.0F : 1.0F; }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

struct LeakyRelu {
  static constexpr int coefficients = 0;
  __device__ explicit LeakyRelu(const float*) {}
  __device__ float value(float x) const { return x * slope(x); }
  __device__ float slope(float x) const { return x <= 0.0F ? 0.01F : 1.0F; }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

struct PRelu {
  static constexpr int coefficients = 1;
  __device__ explicit PRelu(const float* a) : negative_slope(a[0]) {}
  __device__ float value(float x) const { return x * slope(x); }
  __device__ float slope(float x) const { return x <= 0.0F ? negative_slope : 1.0F; }
  __device__ void add_coefficient_sums(float x, float g, float* sums) const {
    sums[0] += x <= 0.0F ? g * x : 0.0F;
  }
  float negative_slope;
};

struct SquaredRelu {
  static constexpr int coefficients = 0;
  __device__ explicit SquaredRelu(const float*) {}
  __device__ float value(float x) const { return x <= 0.0F ? 0.0F : x * x; }
  __device__ float slope(float x) const { return x <= 0.0F ? 0.0F : 2.0F * x; }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

struct Gelu {
  static constexpr int coefficients = 0;
  __device__ explicit Gelu(const float*) {}
  __device__ float value(float x) const { return x * normcdff(x); }
  __device__ float slope(float x) const {
    return fmaf(0.3989422804F * x, expf(-0.5F * x * x), normcdff(x));
  }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

// The sigmoid through exp(-|x|), which never overflows.
struct Silu {
  static constexpr int coefficients = 0;
  __device__ explicit Silu(const float*) {}
  __device__ float sigmoid(float x) const {
    const float z = __expf(-fabsf(x));
    return __fdividef(x < 0.0F ? z : 1.0F, 1.0F + z);
  }
  __device__ float value(float x) const { return x * sigmoid(x); }
  __device__ float slope(float x) const {
    const float s = sigmoid(x);
    return fmaf(x * s, 1.0F - s, s);
  }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

// What a polynomial is taken of.
struct Identity {
  static constexpr int coefficients = 0;
  __device__ explicit Identity(const float*) {}
  __device__ float value(float x) const { return x; }
  __device__ float slope(float) const { return 1.0F; }
  __device__ void add_coefficient_sums(float, float, float*) const {}
};

// sum_{i=0..order} a_i inner(x)^i; the coefficients of `inner` follow a_order.
template <class Inner, int order>
struct Polynomial {
  static constexpr int coefficients = order + 1 + Inner::coefficients;
  __device__ explicit Polynomial(const float* coefficient) : inner(coefficient + order + 1) {
#pragma unroll
    for (int i = 0; i <= order; ++i) a[i] = coefficient[i];
  }
  __device__ float value(float x) const {
    const float t = inner.value(x);
    float y = a[order];
#pragma unroll
    for (int i = order - 1; i >= 0; --i) y = fmaf(y, t, a[i]);
    return y;
  }
  __device__ float outer_slope(float t) const {
    float y = static_cast<float>(order) * a[order];
#pragma unroll
    for (int i = order - 1; i >= 1; --i) y = fmaf(y, t, static_cast<float>(i) * a[i]);
    return y;
  }
  __device__ float slope(float x) const { return outer_slope(inner.value(x)) * inner.slope(x); }
  __device__ void add_coefficient_sums(float x, float g, float* sums) const {
    const float t = inner.value(x);
    float term = g;
#pragma unroll
    for (int i = 0; i <= order; ++i) {
      sums[i] += term;
      term *= t;
    }
    inner.add_coefficient_sums(x, g * outer_slope(t), sums + order + 1);
  }
  float a[order + 1];
  Inner inner;
};

/// Calls operation.template operator()<Formula>() with the formula of an element-wise activation
/// other than swiglu.
template <class Operation>
void with_formula(const Activation& activation, Operation&& operation) {
  const auto polynomial = [&]<class Inner>() {
    if (activation.order == 2)
      operation.template operator()<Polynomial<Inner, 2>>();
    else if (activation.order == 3)
      operation.template operator()<Polynomial<Inner, 3>>();
    else
      operation.template operator()<Polynomial<Inner, 4>>();
  };
  switch (activation.kind) {
    case ActivationKind::relu:
      return operation.template operator()<Relu>();
    case ActivationKind::leaky_relu:
      return operation.template operator()<LeakyRelu>();
    case ActivationKind::prelu:
      return operation.template operator()<PRelu>();
    case ActivationKind::relu2:
      return operation.template operator()<SquaredRelu>();
    case ActivationKind::gelu:
      return operation.template operator()<Gelu>();
    case ActivationKind::silu:
      return operation.template operator()<Silu>();
    case ActivationKind::polyrelu:
      return polynomial.template operator()<Relu>();
    case ActivationKind::polyprelu:
      return polynomial.template operator()<PRelu>();
    case ActivationKind::polynomial:
      return polynomial.template operator()<Identity>();
    case ActivationKind::swiglu:
    case ActivationKind::polynorm:
    case ActivationKind::polyrelunorm:
      break;  // kernels of their own
  }
}

}  // namespace polymoe::cuda
