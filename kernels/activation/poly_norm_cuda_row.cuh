// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::cuda {

/// The larger of the two; NaN where one is.
__device__ inline float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// The formulas of one row, from its elements t = max(x, floor) (floor is 0 or -infinity) and
// gradients g. With r_p = rsqrt(mean(t^2p) + epsilon) known, y and d_x are polynomials of t.

/// sums[p - 1] += t^(2p)
template <int order>
__device__ void add_even_powers(float t, float* sums) {
  const float t2 = t * t;
  sums[0] += t2;
  float power = t2;
#pragma unroll
  for (int p = 2; p <= order; ++p) {
    sums[p - 1] = fmaf(power, t2, sums[p - 1]);
    power *= t2;
  }
}

/// sums[p] += g t^p
template <int order>
__device__ void add_gradient_powers(float t, float g, float* sums) {
  sums[0] += g;
  float term = g;
#pragma unroll
  for (int p = 1; p <= order; ++p) {
    sums[p] = fmaf(term, t, sums[p]);
    term *= t;
  }
}

/// value[0] + value[1] t + ... + value[degree] t^degree
template <int degree>
__device__ float polynomial(const float (&value)[degree + 1], float t) {
  float y = value[degree];
#pragma unroll
  for (int p = degree - 1; p >= 0; --p) y = fmaf(y, t, value[p]);
  return y;
}

/// y = polynomial(value, t).
template <int order>
__device__ void value_coefficients(const float* a, const float* even_sums, float inverse_width,
                                   float epsilon, float (&value)[order + 1]) {
  value[0] = a[0];
#pragma unroll
  for (int p = 1; p <= order; ++p) {
    value[p] = a[p] * rsqrtf(fmaf(even_sums[p - 1], inverse_width, epsilon));
  }
}

/// d_x = g polynomial(slope, t) - t polynomial(pull, t^2).
template <int order>
struct Gradient {
  float slope[order], pull[order];
  float d_a[order + 1];  // the row's share of the coefficients' gradients

  __device__ Gradient(const float* a, const float* even_sums, const float* gradient_sums,
                      float inverse_width, float epsilon) {
    d_a[0] = gradient_sums[0];
#pragma unroll
    for (int p = 1; p <= order; ++p) {
      const float r = rsqrtf(fmaf(even_sums[p - 1], inverse_width, epsilon));
      d_a[p] = r * gradient_sums[p];
      slope[p - 1] = static_cast<float>(p) * a[p] * r;
      pull[p - 1] = slope[p - 1] * (r * d_a[p]) * inverse_width;
    }
  }

  __device__ float operator()(float t, float g) const {
    return fmaf(g, polynomial<order - 1>(slope, t), -t * polynomial<order - 1>(pull, t * t));
  }
};

}  // namespace polymoe::cuda
