// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "layers/batch.h"
#include "layers/embedding_layer.h"
#include "layers/feed_forward.h"
#include "layers/output_layer.h"
#include "layers/shared_rows.h"
#include "layers/transformer_block.h"
#include "moe/decoding_cache.h"
#include "moe/exchange_traffic.h"
#include "moe/model_config.h"
#include "moe/moe_layer.h"
#include "moe/routing_statistics.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

/// What the backward pass computes again instead of keeping: nothing; the pre-activations of the
/// feed-forwards, by one product each; all of a block but its input.
enum class Recompute : std::uint8_t { none, activation, block };

/// A rank's share of the loss of a micro-batch. Summed over ranks and micro-batches they give the
/// step's loss terms; the total is their sum.
struct LossTerms {
  double cross_entropy = 0.0;  // sum over tokens / global tokens
  RouterLosses router;         // coefficients included, means over the MoE layers

  LossTerms& operator+=(const LossTerms& other) {
    cross_entropy += other.cross_entropy;
    router += other.router;
    return *this;
  }
};

/// What a forward pass shows of one layer: the residual stream behind it, x + branch (an undefined
/// branch is zero), its feed-forward, and where that has experts the layer of them.
struct LayerObservation {
  std::int64_t layer = -1;                               // -1: the embedding
  Tensor x, branch;                                      // [tokens, hidden]
  std::function<FeedForward::View()> feed_forward = {};  // of a block
  const MoeLayer* experts = nullptr;
};

/// Sequences that may begin alike, and which of their next tokens are predicted.
struct SharedTokenBatch {
  SharedRows rows;
  Tensor tokens;      // [rows] i32
  Tensor predicting;  // [predictions] i32: the row that a token follows
  Tensor targets;     // [predictions] i32: that token
};

/// A sequence, and how many tokens of a pass go on with it.
struct Continuation {
  DecodingCache* cache;
  std::int64_t tokens = 1;
};

/// Decoder language model, dense or mixture-of-experts, on this rank of a mesh.
///
/// Segments of the parameter store: 0 the embedding, 1 + l block l, 1 + layers the final norm and
/// the output projection.
class LanguageModel {
 public:
  /// Declares all parameters in `store`; the caller allocates it before any call below.
  /// Throws InvalidArgument listing the violations of `config`, or when the expert-parallel size
  /// does not divide the experts.
  LanguageModel(const ModelConfig& config, const ProcessMesh& mesh, ParameterStore& store);

  const ModelConfig& config() const { return config_; }

  /// Forward and backward of one micro-batch; adds to the gradients. `segment_done(s)`, if given,
  /// is called as soon as the gradients of segment s are complete (last micro-batch only).
  /// Collective over the mesh's `expert` group (over `world` with BalanceScope::global).
  LossTerms forward_backward(const TokenBatch& batch, const GlobalBatch& global,
                             Recompute recompute, const std::function<void(int)>& segment_done,
                             ExecutionContext& context);

  /// Cross-entropy of every token, [sequences * length] of the model's dtype (f32 beside bf16), in
  /// the arena.
  /// Collective over `expert`.
  Tensor token_losses(const TokenBatch& batch, ExecutionContext& context);

  /// Losses of the predictions of a batch whose sequences share rows, [predictions]. Not for a
  /// router that drops tokens by sequence (moe.capacity_factor > 0): throws InvalidArgument.
  Tensor shared_token_losses(const SharedTokenBatch& batch, ExecutionContext& context);

  /// The losses of token_losses, and shows each layer's inside to `look` while it is there: first
  /// the embedding, then every block.
  Tensor observe(const TokenBatch& batch, const std::function<void(const LayerObservation&)>& look,
                 ExecutionContext& context);

  /// Sums the routing counts of the step over `world`, moves the router biases where the step is
  /// `applied`, and starts counting anew. Collective over `world`. One entry per MoE layer.
  std::vector<RoutingStatistics> finish_step(ExecutionContext& context, bool applied = true);

  /// What this rank exchanged since the last call: one entry per MoE layer.
  std::vector<ExchangeTraffic> take_traffic();

  /// Router biases per MoE layer as checkpoint pieces ("router_bias/layers.3"); the same on every
  /// rank. Empty without biases.
  std::vector<TensorPiece> router_bias_pieces();

  /// Logits [vocab], f32 beside bf16, of the position after the last of `tokens`, which continue
  /// what `cache` holds; there until the arena's scope ends or the cache takes further tokens.
  /// Collective over `expert`.
  ///
  /// On a GPU the cache's second single token has its step recorded, where a step waits for
  /// nothing: from then on a token is one submission. Otherwise, with experts of other ranks or
  /// that drop tokens, each is submitted kernel by kernel.
  Tensor next_token_logits(const Tensor& tokens, DecodingCache& cache, ExecutionContext& context);

  /// The same of several sequences in one pass, [sequences.size(), vocab]: `tokens` has those of
  /// one behind those of the other, and the weights are read once for all of them. Kernel by kernel
  /// on a GPU, but a single sequence is handed to the above. None is normal: the rank joins what is
  /// collective.
  ///
  /// A sequence's logits are those that it has alone to rounding: a single row takes other kernels,
  /// and libraries multiply another number of rows in another order (f64 on the CPU has the same
  /// bits beside any others). With moe.capacity_factor > 0, by which tokens are dropped by
  /// sequence, several sequences have one token each: throws InvalidArgument otherwise.
  Tensor next_token_logits(const Tensor& tokens, std::span<const Continuation> sequences,
                           ExecutionContext& context);

 private:
  struct NumberedMoeLayer {
    std::int64_t number;  // of the block
    MoeLayer* layer;
  };
  struct Shared;
  struct ForwardMemory;
  /// Runs block l on the stream before it.
  using RunBlock = std::function<ResidualStream(std::size_t l, const ResidualStream& before,
                                                TransformerBlock::Saved& saved)>;

  /// next_token_logits through the kernels that take any number of rows.
  Tensor continue_sequences(const Tensor& tokens, std::span<const Continuation> sequences,
                            ExecutionContext& context);
  /// Throws InvalidArgument unless the model can go on with the sequence.
  void check(const Continuation& sequence) const;
  /// next_token_logits of one token, [1, vocab].
  Tensor step(const Tensor& token, DecodingCache& cache, ExecutionContext& context);
  Tensor submit_step(const DecodingCache& cache, ExecutionContext& context);
  bool step_is_recordable() const;
  /// The experts of block l; null where it has none.
  const MoeLayer* experts_of(std::size_t l) const;
  /// Throws InvalidArgument unless the batch has the shapes of its sequences.
  void check(const TokenBatch& batch) const;
  DType dtype() const { return parameters_.dtype(); }

  // The parts of forward_backward, in their order.
  ResidualStream forward(const TokenBatch& batch, const Shared& shared, ExecutionContext& context);
  void loss_and_gradients(const ResidualStream& stream, const Tensor& targets, const Shared& shared,
                          ExecutionContext& context);
  void backward(const TokenBatch& batch, const Shared& shared,
                const std::function<void(int)>& segment_done, ExecutionContext& context);
  /// The embedding and all blocks without a backward pass.
  ResidualStream run_blocks(const Tensor& tokens, const ForwardMemory& memory, const RunBlock& run,
                            ExecutionContext& context);
  LossTerms loss_terms(const Shared& shared, Stream& stream);

  ModelConfig config_;
  const ProcessMesh& mesh_;
  const ParameterStore& parameters_;
  std::optional<EmbeddingLayer> embedding_;
  std::vector<std::unique_ptr<FeedForward>> feed_forwards_;
  std::vector<NumberedMoeLayer> moe_layers_;
  std::vector<TransformerBlock> blocks_;
  std::optional<OutputLayer> output_;

  // Used anew by every batch.
  std::vector<TransformerBlock::Saved> saved_;  // per block
  std::vector<std::size_t> marks_;              // of the arena, before each block's memory
};

}  // namespace polymoe
