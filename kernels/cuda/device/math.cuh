// SPDX-License-Identifier: Apache-2.0
#pragma once

#define POLYMOE_FORMULA __device__ __forceinline__

namespace polymoe::cuda {

/// The arithmetic of formulas that the backends share, on one f32 of a GPU; see
/// kernels/cpu/vector_math-inl.h for what the functions mean.
struct DeviceMath {
  using Value = float;
  using Scalar = float;
  using Statistic = float;
  /// The reciprocal: a product for each row instead of a division.
  struct Count {
    __host__ __device__ explicit Count(int count) : reciprocal(1.0F / static_cast<float>(count)) {}
    float reciprocal;
  };

  POLYMOE_FORMULA static Value constant(double value) { return static_cast<float>(value); }
  POLYMOE_FORMULA static Value set(Statistic value) { return value; }
  POLYMOE_FORMULA static Value add(Value a, Value b) { return a + b; }
  POLYMOE_FORMULA static Value subtract(Value a, Value b) { return a - b; }
  POLYMOE_FORMULA static Value multiply(Value a, Value b) { return a * b; }
  POLYMOE_FORMULA static Value divide(Value a, Value b) { return __fdividef(a, b); }
  POLYMOE_FORMULA static Value multiply_add(Value a, Value b, Value c) { return fmaf(a, b, c); }
  POLYMOE_FORMULA static Value subtract_product(Value a, Value b, Value c) {
    return fmaf(-a, b, c);
  }
  POLYMOE_FORMULA static Value if_positive(Value x, Value yes, Value no) {
    return x <= 0.0F ? no : yes;
  }
  POLYMOE_FORMULA static Value if_negative(Value x, Value yes, Value no) {
    return x < 0.0F ? yes : no;
  }
  POLYMOE_FORMULA static Value exp(Value x) { return expf(x); }
  POLYMOE_FORMULA static Value exp_of_minus_size(Value x) { return __expf(-fabsf(x)); }
  POLYMOE_FORMULA static Value normal_distribution(Value x, Value) { return normcdff(x); }

  POLYMOE_FORMULA static Statistic mean(Statistic sum, Count count) {
    return sum * count.reciprocal;
  }
  POLYMOE_FORMULA static Statistic inverse_root_mean(Statistic sum, Count count,
                                                     Statistic epsilon) {
    return rsqrtf(fmaf(sum, count.reciprocal, epsilon));
  }
};

}  // namespace polymoe::cuda
