// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "layers/embedding_layer.h"
#include "layers/output_layer.h"
#include "layers/transformer_block.h"
#include "moe/language_model.h"
#include "moe/moe_layer.h"

namespace polymoe {

/// The layers of a LanguageModel; included by its sources only.
struct LanguageModel::Impl {
  struct NumberedMoeLayer {
    std::int64_t number;  // of the block
    MoeLayer* layer;
  };

  Impl(const ModelConfig& model_config, const ProcessMesh& process_mesh, ParameterStore& store);

  /// Throws InvalidArgument unless the batch has the shapes of its sequences.
  void check(const TokenBatch& batch) const;

  DType dtype() const { return parameters.dtype(); }

  // The parts of forward_backward, in their order.
  struct Shared;
  ResidualStream forward(const TokenBatch& batch, const Shared& shared, ExecutionContext& context);
  void loss_and_gradients(const ResidualStream& stream, const Tensor& targets, const Shared& shared,
                          ExecutionContext& context);
  void backward(const TokenBatch& batch, const Shared& shared,
                const std::function<void(int)>& segment_done, ExecutionContext& context);
  LossTerms loss_terms(const Shared& shared, Stream& stream);

  ModelConfig config;
  const ProcessMesh& mesh;
  const ParameterStore& parameters;
  std::optional<EmbeddingLayer> embedding;
  std::vector<std::unique_ptr<FeedForward>> feed_forwards;
  std::vector<NumberedMoeLayer> moe_layers;
  std::vector<TransformerBlock> blocks;
  std::optional<OutputLayer> output;

  // Used anew by every batch.
  std::vector<TransformerBlock::Saved> saved;  // per block
  std::vector<std::size_t> marks;              // of the arena, before each block's memory
};

}  // namespace polymoe
