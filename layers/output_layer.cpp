// SPDX-License-Identifier: Apache-2.0
#include "layers/output_layer.h"

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/row_products.h"
#include "kernels/output_loss/output_loss.h"
#include "layers/transformer_block.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

Tensor allocate_inv_rms(const ResidualStream& in, Arena& arena) {
  return arena.allocate({in.x.dim(0)}, accumulation_dtype(in.x.dtype()));
}

}  // namespace

OutputLayer::OutputLayer(ParameterStore& store, const Settings& settings)
    : norm_(store, "final_norm", settings.hidden, settings.norm_epsilon),
      projection_(settings.tied != nullptr ? settings.tied
                                           : &store.declare(dense_parameter(
                                                 "output.weight", {settings.vocab, settings.hidden},
                                                 settings.initializer))) {}

void OutputLayer::loss(const ResidualStream& in, const Tensor& targets, Tensor token_loss,
                       ExecutionContext& context) const {
  Arena::Scope scope(context.arena);
  const Tensor normed = context.arena.allocate(in.x.shape(), in.x.dtype());
  const Tensor inv_rms = allocate_inv_rms(in, context.arena);
  norm_.forward_sum(in.x, in.branch, in.branch, normed, inv_rms, context);
  output_loss_forward(normed, projection_->value, targets, token_loss, context.arena,
                      context.stream);
}

void OutputLayer::loss_and_gradients(const ResidualStream& in, const Tensor& targets, double scale,
                                     Tensor token_loss, Tensor d_stream,
                                     ExecutionContext& context) const {
  Arena::Scope scope(context.arena);
  const Tensor inv_rms = allocate_inv_rms(in, context.arena);
  // The normed rows, and then their gradient, take the place of the result.
  norm_.forward_sum(in.x, in.branch, in.branch, d_stream, inv_rms, context);
  output_loss_forward_backward(d_stream, projection_->value, targets, scale, token_loss, d_stream,
                               projection_->gradient, context.arena, context.stream);
  norm_.backward(d_stream, in.branch, inv_rms, Write::overwrite, d_stream, context);
}

void OutputLayer::logits(const ResidualStream& in, Tensor result, ExecutionContext& context) const {
  Arena::Scope scope(context.arena);
  const Tensor normed = context.arena.allocate(in.x.shape(), in.x.dtype());
  const Tensor inv_rms = allocate_inv_rms(in, context.arena);
  norm_.forward_sum(in.x, in.branch, in.branch, normed, inv_rms, context);
  matmul(normed, Transpose::no, projection_->value, Transpose::yes, Write::overwrite, result,
         context.stream);
}

void OutputLayer::row_logits(const Tensor& x, Tensor result, ExecutionContext& context) const {
  const RowProduct product{projection_->value, result};
  row_products(norm_.of_row(x), {&product, 1}, context.arena, context.stream);
}

}  // namespace polymoe
