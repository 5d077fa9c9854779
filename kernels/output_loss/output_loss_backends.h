// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/output_loss/output_loss.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

/// What output_loss keeps of one chunk of rows.
struct OutputLossChunk {
  Tensor logits;    // [rows of a chunk, vocab], of accumulation_dtype(x's dtype)
  Tensor d_logits;  // [rows of a chunk, vocab], of x's dtype; in the place of logits if that fits
  Tensor d_weight;  // [vocab, hidden] f32: sum over several chunks of a bf16 gradient, or undefined
};

/// Gradients take the place of the chunk's logits.
void output_loss_forward(CpuBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream& stream);

void output_loss_forward_backward(CpuBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream& stream);

/// d_logits and d_weight of the chunk are not used.
void output_loss_forward(CudaBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream& stream);

void output_loss_forward_backward(CudaBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream& stream);

}  // namespace polymoe::detail
