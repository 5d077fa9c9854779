// SPDX-License-Identifier: Apache-2.0
#include "layers/embedding_layer.h"

#include "kernels/embedding/embedding.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {

EmbeddingLayer::EmbeddingLayer(ParameterStore& store, const Extents& extents,
                               const Initializer& initializer)
    : table_(&store.declare(
          dense_parameter("embedding.weight", {extents.vocab, extents.hidden}, initializer))) {}

void EmbeddingLayer::forward(const Tensor& tokens, Tensor y, ExecutionContext& context) const {
  embedding_forward(tokens, table_->value, y, context.stream);
}

void EmbeddingLayer::backward(const Tensor& tokens, const Tensor& d_y,
                              ExecutionContext& context) const {
  embedding_backward(tokens, d_y, table_->gradient, context.arena, context.stream);
}

}  // namespace polymoe
