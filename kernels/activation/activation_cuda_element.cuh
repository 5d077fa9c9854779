// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/activation/activation.h"

namespace polymoe::cuda {

constexpr int most_coefficients = 6;  // polyprelu of order 4

// Comparisons are written so that NaN takes the branch that keeps x.
__device__ inline float positive_part(float x) { return x <= 0.0f ? 0.0f : x; }

__device__ inline float silu(float x, float& slope) {
  const float s = 1.0f / (1.0f + expf(-x)), y = x * s;
  slope = fmaf(y, 1.0f - s, s);
  return y;
}

/// The activations that act on one element.
struct ElementFormula {
  ActivationKind kind;
  int order;
  float a[most_coefficients];

  /// y, and dy/dx.
  __device__ float operator()(float x, float& slope) const {
    switch (kind) {
      case ActivationKind::relu:
        slope = x <= 0.0f ? 0.0f : 1.0f;
        return positive_part(x);
      case ActivationKind::leaky_relu:
        slope = x <= 0.0f ? 0.01f : 1.0f;
        return x * slope;
      case ActivationKind::prelu:
        slope = x <= 0.0f ? a[0] : 1.0f;
        return x * slope;
      case ActivationKind::relu2: {
        const float t = positive_part(x);
        slope = 2.0f * t;
        return t * t;
      }
      case ActivationKind::gelu: {
        const float distribution = 0.5f * erfcf(-x * 0.70710678f);
        slope = fmaf(x, 0.39894228f * expf(-0.5f * x * x), distribution);
        return x * distribution;
      }
      case ActivationKind::silu:
        return silu(x, slope);
      default: {
        float inner_slope;
        const float t = inner(x, inner_slope);
        slope = inner_slope * polynomial_slope(t);
        return polynomial(t);
      }
    }
  }

  /// sums[i] += g dy/da_i.
  __device__ void add_coefficient_sums(float x, float g, float (&sums)[most_coefficients]) const {
    if (kind == ActivationKind::prelu) {
      if (x <= 0.0f) sums[0] += g * x;
      return;
    }
    float inner_slope;
    const float t = inner(x, inner_slope);
    float term = g;
#pragma unroll
    for (int i = 0; i < most_coefficients - 1; ++i) {
      if (i > order) break;
      sums[i] += term;
      term *= t;
    }
    if (kind == ActivationKind::polyprelu && x <= 0.0f) {
      const float sum = g * polynomial_slope(t) * x;
#pragma unroll
      for (int i = 0; i < most_coefficients; ++i) {
        if (i == order + 1) sums[i] += sum;
      }
    }
  }

 private:
  // What a polynomial is taken of.
  __device__ float inner(float x, float& slope) const {
    slope = 1.0f;
    if (kind == ActivationKind::polyrelu) {
      slope = x <= 0.0f ? 0.0f : 1.0f;
      return positive_part(x);
    }
    if (kind == ActivationKind::polyprelu && x <= 0.0f) {
      slope = order == 2 ? a[3] : order == 3 ? a[4] : a[5];
      return slope * x;
    }
    return x;
  }
  __device__ float polynomial(float t) const {
    float y = 0.0f;
#pragma unroll
    for (int i = most_coefficients - 2; i >= 0; --i) {
      if (i <= order) y = fmaf(y, t, a[i]);
    }
    return y;
  }
  __device__ float polynomial_slope(float t) const {
    float y = 0.0f;
#pragma unroll
    for (int i = most_coefficients - 2; i >= 1; --i) {
      if (i <= order) y = fmaf(y, t, static_cast<float>(i) * a[i]);
    }
    return y;
  }
};

}  // namespace polymoe::cuda
