// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/dispatch.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// y[r] = table[tokens[r]].
///
/// tokens [rows] i32 in [0, vocab); table [vocab, width]; y [rows, width]; f32 or f64 on the
/// CPU, f32 or bf16 on CUDA.
/// Throws InvalidArgument naming position and id when a token is out of range; on CUDA, where the
/// host does not see the tokens, its row of y is NaN.
void embedding_forward(const Tensor& tokens, const Tensor& table, Tensor y, Stream& stream);

/// d_table[tokens[r]] += d_y[r], rows in ascending order for every token: deterministic.
/// d_table is f32 on CUDA, and tokens out of range are passed over there.
void embedding_backward(const Tensor& tokens, const Tensor& d_y, Tensor d_table, Arena& scratch,
                        Stream& stream);

}  // namespace polymoe
