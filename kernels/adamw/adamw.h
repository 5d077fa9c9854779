// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace polymoe {

struct AdamWStep {
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double gradient_scale = 1.0;  // of clipping
  std::int64_t step = 1;        // from 1, of the bias corrections
};

/// One pass over memory:
///   g = gradient_scale * gradient;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   p -= learning_rate * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon)
///                         + weight_decay * p)
///
/// parameter, gradient, m, v: equal element counts; f32, or f64 on the CPU, one dtype. Beside an
/// f32 parameter m and v together may be bf16, and on CUDA the gradient; they are rounded to
/// nearest even, and this step's update uses the values before that. Asynchronous on `stream`.
/// Source: Loshchilov & Hutter 2019, arXiv:1711.05101.
void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m, Tensor v,
           Stream& stream);

/// The same, and in the same pass rounded = parameter after the update, to the nearest bf16, ties
/// to even.
///
/// rounded  bf16, of the parameter's element count; the parameter is f32, the master copy. May be
///          left undefined: then nothing is written.
void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, Tensor m, Tensor v,
           Tensor rounded, Stream& stream);

}  // namespace polymoe
