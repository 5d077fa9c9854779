// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/output_loss.h"

namespace polymoe::detail {

/// logits [rows of a chunk, vocab]
void output_loss_forward(CpuBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, Tensor logits, Stream& stream);

void output_loss_forward_backward(CpuBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, Tensor logits, Stream& stream);

}  // namespace polymoe::detail
