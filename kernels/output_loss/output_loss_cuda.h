// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/output_loss/output_loss.h"
#include "kernels/output_loss/output_loss_chunk.h"

namespace polymoe::detail {

/// d_logits of the chunk is not used.
void output_loss_forward(CudaBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream& stream);

void output_loss_forward_backward(CudaBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream& stream);

}  // namespace polymoe::detail
