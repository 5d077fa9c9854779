// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/output_loss/output_loss.h"
#include "kernels/output_loss/output_loss_chunk.h"

namespace polymoe::detail {

/// Gradients take the place of the chunk's logits.
void output_loss_forward(CpuBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream& stream);

void output_loss_forward_backward(CpuBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream& stream);

}  // namespace polymoe::detail
