// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Output projection and cross-entropy in chunks of rows: the full logits never exist.
///   logits[r] = weight x[r];  token_loss[r] = logsumexp(logits[r]) - logits[r][targets[r]].
///
/// x          [rows, hidden]
/// weight     [vocab, hidden]
/// targets    [rows] i32; -1 means no prediction: loss and gradient of that row are 0
/// token_loss [rows]  of x's dtype; f32 beside bf16
///
/// f32 or f64 on the CPU, f32 or bf16 on CUDA, where logits, maximum and sum are f32 in either
/// case. Asynchronous on `stream`; a chunk's logits live in `scratch`: on CUDA up to 1.25 GiB.
/// Throws InvalidArgument on a mismatch, or naming a target that is not in [-1, vocab). On CUDA the
/// host does not see the targets: the loss of such a row is NaN, and its gradient 0.
void output_loss_forward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, Arena& scratch, Stream& stream);

/// The same, and at once the gradients of scale * sum(token_loss), while a chunk's logits are at
/// hand: overwrites d_x, adds to d_weight. 3 products in all, none of them twice.
///
/// d_x [rows, hidden] may alias x; d_weight [vocab, hidden], f32 or bf16 beside bf16. There the
/// gradients of the logits are rounded to bf16 for the two products; what is added to a d_weight in
/// bf16 is summed in f32 over all rows, for which several chunks take `scratch` of its size.
void output_loss_forward_backward(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                  double scale, Tensor token_loss, Tensor d_x, Tensor d_weight,
                                  Arena& scratch, Stream& stream);

}  // namespace polymoe
