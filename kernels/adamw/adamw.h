// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

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

/// The tensors that are kept of every parameter from step to step, by the kind that begins their
/// names in a checkpoint: m, then v. Everything that allocates, saves, loads, converts or counts
/// the state walks this table.
inline constexpr std::array<std::string_view, 2> optimizer_state_kinds = {"moment1/", "moment2/"};
/// One of each, {m, v}.
using OptimizerState = std::array<Tensor, optimizer_state_kinds.size()>;

/// One pass over memory:
///   g = gradient_scale * gradient;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
///   p -= learning_rate * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon)
///                         + weight_decay * p)
///
/// parameter, gradient, m, v: equal element counts; f32, or f64 on the CPU, one dtype. An f32
/// parameter may be held as bf16 beside `low`, u16, its 16 lower bits (kernels/split_float): read
/// and written together, to the bits of one held as f32. low: undefined = there is none. Beside an
/// f32 parameter the state may be bf16, and on CUDA the gradient; it is rounded to nearest even,
/// and this step's update uses the values before that. Asynchronous on `stream`. Throws
/// InvalidArgument on a mismatch.
/// Source: Loshchilov & Hutter 2019, arXiv:1711.05101.
void adamw(const AdamWStep& step, const Tensor& gradient, Tensor parameter, OptimizerState state,
           Tensor low, Stream& stream);

}  // namespace polymoe
