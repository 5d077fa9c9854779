// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention/attention_backends.h"

namespace polymoe::cuda {

/// attention_forward on this project's own kernels, f32 and bf16: a block per query tile of a
/// head, or per head where there is one query. Sums are f32, never TF32.
void attention_tiles_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& out, const Tensor& log_sum_exp,
                             Stream& stream);

/// output_dots [batch, heads, query_length] f32 = <d_out, out> of each query of a head, which every
/// backward pass of our own takes.
void attention_output_dots(const AttentionShape& shape, const Tensor& d_out, const Tensor& out,
                           const Tensor& output_dots, Stream& stream);

/// attention_backward likewise; output_dots is [batch, heads, query_length] f32. The gradients of
/// keys and values, then those of queries: each is summed by one block, in one order.
void attention_tiles_backward(const AttentionShape& shape,
                              const detail::AttentionBackwardInputs& inputs,
                              const detail::AttentionGradients& gradients,
                              const Tensor& output_dots, Stream& stream);

}  // namespace polymoe::cuda
