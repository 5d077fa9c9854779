// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "runtime/random.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Which numbers of a stream, and how they are scaled.
struct NormalDraw {
  std::int64_t first = 0;   // index of the first element within the stream
  double scale = 1.0;       // standard deviation
  double truncation = 0.0;  // redraw beyond that many standard deviations; 0 = never
};

/// y[i] = scale * z(first + i), z the stream's (truncated) standard normal: the same numbers
/// whatever part of a tensor is drawn where, equal on both backends to rounding.
///
/// y any shape; f32, f64 or bf16 on the CPU, f32 or bf16 on CUDA
///
/// Asynchronous on `stream`. Throws InvalidArgument on another dtype or device.
void random_normal(const RandomStream& random, const NormalDraw& draw, Tensor y, Stream& stream);

}  // namespace polymoe
