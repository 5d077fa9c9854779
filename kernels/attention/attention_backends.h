// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/backend.h"

namespace polymoe::detail {

/// Scratch of one backward call, allocated before dispatch so that the memory plan counts it.
struct AttentionBackwardScratch {
  Tensor tiles;           // CPU: [threads, elements]; CUDA: cuDNN's workspace, or undefined
  Tensor output_dots;     // [batch, heads, query_length]  <d_out, out>; undefined for cuDNN alone
  Tensor d_q_partials;    // CPU: [splits - 1, elements of d_q]
  Tensor documents = {};  // CUDA: the plan of long documents for cuDNN, or undefined
};

/// Scratch of one forward call: those of AttentionBackwardScratch that it needs.
struct AttentionForwardScratch {
  Tensor tiles, documents;
};

struct AttentionBackwardInputs {
  const Tensor &d_out, &q, &k, &v, &out, &log_sum_exp;
};
struct AttentionGradients {
  Tensor d_q, d_k, d_v;
};

void attention_forward(CpuBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp,
                       const AttentionForwardScratch& scratch, Stream& stream);

void attention_backward(CpuBackend, const AttentionShape& shape,
                        const AttentionBackwardInputs& inputs, const AttentionGradients& gradients,
                        const AttentionBackwardScratch& scratch, Stream& stream);

void attention_forward(CudaBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp,
                       const AttentionForwardScratch& scratch, Stream& stream);

void attention_backward(CudaBackend, const AttentionShape& shape,
                        const AttentionBackwardInputs& inputs, const AttentionGradients& gradients,
                        const AttentionBackwardScratch& scratch, Stream& stream);

}  // namespace polymoe::detail

namespace polymoe::cpu {

/// Score tiles of every thread, for attention_forward.
Tensor allocate_attention_forward_tiles(const AttentionShape& shape, DType dtype, Arena& scratch);

/// The keys of one (sequence, key head) are dealt to `splits` tasks, a number that depends on the
/// shape alone; each sums its own gradient of the queries.
detail::AttentionBackwardScratch allocate_attention_backward_scratch(const AttentionShape& shape,
                                                                     DType dtype, Arena& scratch);

}  // namespace polymoe::cpu
