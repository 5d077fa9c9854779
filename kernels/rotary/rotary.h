// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/documents.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Which position each row has: row r is at first_position + r % sequence_length, or, where there
/// are documents, that far behind the start of its own; first_position is 0 then.
struct RotaryPositions {
  std::int64_t sequence_length = 0;
  std::int64_t first_position = 0;
  double theta = 1e4;
  Tensor document_starts = {};  // [rows] i32, see kernels/documents.h
};

/// Rotates each pair (x_i, x_{i + d/2}), i < d/2, of every head by the angle
/// position * theta^(-2i/d): the half-split form. In place; angles in f64.
///
/// x [rows, heads, d], d even; f32 or f64 on the CPU, f32 or bf16 on CUDA. Asynchronous on
/// `stream`. Source: Su et al. 2021, arXiv:2104.09864.
void rotary_forward(const RotaryPositions& positions, Tensor x, Stream& stream);

/// The inverse rotation, which is also the transposed one: turns d_y into d_x in place.
void rotary_backward(const RotaryPositions& positions, Tensor d_y, Stream& stream);

}  // namespace polymoe
