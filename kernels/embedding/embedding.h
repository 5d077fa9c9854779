// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
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

/// d_table[tokens[r]] += d_y[r].
///
/// tokens [rows] i32 in [0, vocab); d_y [rows, width]; d_table [vocab, width] of d_y's dtype, f32
/// or bf16 beside bf16.
///
/// Deterministic, each backend in its fixed order. The CPU adds a token's rows one by one, in
/// ascending order. CUDA sorts all rows by token, stably, and cuts them into windows of 64; a
/// token's rows within a window are summed in ascending order, then its windows' sums, all in f32,
/// and the whole is added once. Throws InvalidArgument on a mismatch, or naming position and id of
/// a token out of range (CPU; on CUDA such tokens are passed over).
void embedding_backward(const Tensor& tokens, const Tensor& d_y, Tensor d_table, Arena& scratch,
                        Stream& stream);

}  // namespace polymoe
