// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention.h"

namespace polymoe::cpu {

/// Score tiles of every thread, for attention_forward.
Tensor allocate_attention_forward_tiles(const AttentionShape& shape, DType dtype, Arena& scratch);

/// The keys of one (sequence, key head) are dealt to `splits` tasks, a number that depends on the
/// shape alone; each sums its own gradient of the queries.
struct AttentionBackwardScratch {
  Tensor tiles;         // [threads, elements]
  Tensor output_dots;   // [batch, heads, query_length]  <d_out, out>
  Tensor d_q_partials;  // [splits - 1, elements of d_q]
};
AttentionBackwardScratch allocate_attention_backward_scratch(const AttentionShape& shape,
                                                             DType dtype, Arena& scratch);

struct AttentionBackwardInputs {
  const Tensor &d_out, &q, &k, &v, &out, &log_sum_exp;
};
struct AttentionGradients {
  Tensor d_q, d_k, d_v;
};

}  // namespace polymoe::cpu

namespace polymoe::detail {

void attention_forward(CpuBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Tensor tiles,
                       Stream& stream);

void attention_backward(CpuBackend, const AttentionShape& shape,
                        const cpu::AttentionBackwardInputs& inputs,
                        const cpu::AttentionGradients& gradients,
                        const cpu::AttentionBackwardScratch& scratch, Stream& stream);

}  // namespace polymoe::detail
