// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "layers/batch.h"
#include "layers/feed_forward.h"
#include "moe/decoding_cache.h"
#include "moe/exchange_traffic.h"
#include "moe/model_config.h"
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
/// branch is zero), and its feed-forward.
struct LayerObservation {
  std::int64_t layer = -1;  // -1: the embedding
  Tensor x, branch;         // [tokens, hidden]
  FeedForward::View feed_forward = {};
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
  ~LanguageModel();

  const ModelConfig& config() const;

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

  /// The same, and shows each layer's inside to `look` while it is there: first the embedding, then
  /// every block.
  Tensor observe(const TokenBatch& batch, const std::function<void(const LayerObservation&)>& look,
                 ExecutionContext& context);

  /// Sums the routing counts of the step over `world`, moves the router biases, and starts counting
  /// anew. Collective over `world`. One entry per MoE layer.
  std::vector<RoutingStatistics> finish_step(ExecutionContext& context);

  /// What this rank exchanged since the last call: one entry per MoE layer.
  std::vector<ExchangeTraffic> take_traffic();

  /// Router biases per MoE layer as checkpoint pieces ("router_bias/layers.3"); the same on every
  /// rank. Empty without biases.
  std::vector<TensorPiece> router_bias_pieces();

  /// Logits [vocab], f32 beside bf16, of the position after the last of `tokens`, which continue
  /// what `cache` holds. Collective over `expert`.
  Tensor next_token_logits(const Tensor& tokens, DecodingCache& cache, ExecutionContext& context);

  /// Parameters that take part in one token's prediction: all but the experts not chosen.
  static std::int64_t active_parameters(const ModelConfig& config);
  /// Operations of one token's forward and backward pass: 6 per active weight of a product, plus
  /// the attention scores of a causal context. Recomputation does not count.
  static double training_flops_per_token(const ModelConfig& config);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polymoe
