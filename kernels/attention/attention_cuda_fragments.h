// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention/attention_backends.h"

namespace polymoe::cuda {

/// attention_forward, within documents or not, on tensor cores: bf16, head_dim a multiple of 8 up
/// to 128, every pointer aligned to 16 bytes. Tiles of keys that no query of a tile sees are left
/// out.
/// Source: Dao 2023, arXiv:2307.08691.
void attention_fragments_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const Tensor& out, const Tensor& log_sum_exp,
                                 Stream& stream);

/// attention_backward likewise, of queries and keys of equal lengths; output_dots is [batch, heads,
/// query_length] f32. The gradients of keys and values, then those of queries: each is summed by
/// one block, in one order.
void attention_fragments_backward(const AttentionShape& shape,
                                  const detail::AttentionBackwardInputs& inputs,
                                  const detail::AttentionGradients& gradients,
                                  const Tensor& output_dots, Stream& stream);

}  // namespace polymoe::cuda
