// SPDX-License-Identifier: Apache-2.0
#include "moe/language_model.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/documents.h"
#include "kernels/reduction/reduction.h"
#include "layers/attention_layer.h"
#include "layers/batch.h"
#include "layers/dense_feed_forward.h"
#include "layers/embedding_layer.h"
#include "layers/output_layer.h"
#include "layers/transformer_block.h"
#include "moe/exchange_traffic.h"
#include "moe/model_config.h"
#include "moe/moe_layer.h"
#include "moe/routing_statistics.h"
#include "moe/weight_initializer.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

void require_valid(const ModelConfig& config) {
  std::string all;
  for (const std::string& line : config.violations()) all += (all.empty() ? "" : "; ") + line;
  if (!all.empty()) throw InvalidArgument(all);
}

}  // namespace

LanguageModel::LanguageModel(const ModelConfig& config, const ProcessMesh& mesh,
                             ParameterStore& store)
    : config_(config), mesh_(mesh), parameters_(store) {
  require_valid(config);
  const Initializer initializer = weight_initializer(config);
  const AttentionSettings attention{.hidden = config.hidden,
                                    .heads = config.heads,
                                    .kv_heads = config.key_value_heads(),
                                    .qk_norm = config.qk_norm,
                                    .norm_epsilon = config.norm_epsilon,
                                    .rope_theta = config.rope_theta,
                                    .initializer = initializer};
  store.begin_segment();
  embedding_.emplace(store, EmbeddingLayer::Extents{.vocab = config.vocab, .hidden = config.hidden},
                     initializer);

  const auto layers = static_cast<std::size_t>(config.layers);
  blocks_.reserve(layers);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    store.begin_segment();
    const std::string name = "layers." + std::to_string(layer);
    if (config.is_moe_layer(layer)) {
      auto moe = std::make_unique<MoeLayer>(config_, layer, mesh, store);
      moe_layers_.push_back({layer, moe.get()});
      feed_forwards_.push_back(std::move(moe));
    } else {
      feed_forwards_.push_back(std::make_unique<DenseFeedForward>(
          store, name + ".feed_forward",
          DenseFeedForward::Extents{.hidden = config.hidden, .width = config.dense_width()},
          config.activation, initializer));
    }
    blocks_.emplace_back(store, name, attention, *feed_forwards_.back());
    saved_.push_back(blocks_.back().make_saved());
  }
  marks_.resize(layers);

  store.begin_segment();
  output_.emplace(store,
                  OutputLayer::Settings{.vocab = config.vocab,
                                        .hidden = config.hidden,
                                        .norm_epsilon = config.norm_epsilon,
                                        .initializer = initializer,
                                        .tied = config.tied ? &embedding_->table() : nullptr});
}

void LanguageModel::check(const TokenBatch& batch) const {
  if (batch.sequences < 0 || batch.length < 1) {
    throw InvalidArgument("batch of " + std::to_string(batch.sequences) + " sequences of length " +
                          std::to_string(batch.length) +
                          ": sequences must be at least 0 and their length at least 1");
  }
  const Shape rows{batch.sequences * batch.length};
  check_tensors(
      "language model", parameters_.device(),
      {{"tokens", batch.tokens, rows, DType::i32}, {"targets", batch.targets, rows, DType::i32}});
  check_documents("language model", batch.document_starts, rows[0], parameters_.device());
}

/// What all blocks of one micro-batch share. It lies below what the blocks keep, which goes in the
/// reverse of its order; the gradient of the residual stream is one buffer, updated in place.
struct LanguageModel::Shared {
  Shared(const LanguageModel& model, const BatchLayout& batch_layout, Recompute what, Arena& arena)
      : layout(batch_layout),
        recompute(what),
        shape{layout.rows(), model.config_.hidden},
        loss_sum(arena.allocate({1}, DType::f64)),
        d_stream(arena.allocate(shape, model.dtype())),
        workspace{.normed = arena.allocate(shape, model.dtype()),
                  .branch = arena.allocate(shape, model.dtype())} {
    if (recompute == Recompute::block) middle = arena.allocate(shape, model.dtype());
  }

  BatchLayout layout;
  Recompute recompute;
  Shape shape;  // of the residual stream
  Tensor loss_sum;
  Tensor d_stream;
  TransformerBlock::Workspace workspace;
  Tensor middle;  // where blocks are computed again
};

ResidualStream LanguageModel::forward(const TokenBatch& batch, const Shared& shared,
                                      ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::forward);
  Arena& arena = context.arena;
  ResidualStream stream;
  for (std::size_t l = 0; l < blocks_.size(); ++l) {
    const Timeline::At place(context.timeline, {.layer = static_cast<std::int64_t>(l)});
    TransformerBlock::Saved& kept = saved_[l];
    kept.feed_forward->keep_pre_activations = shared.recompute != Recompute::activation;
    marks_[l] = arena.mark();
    kept.x = arena.allocate(shared.shape, dtype());
    kept.middle = shared.middle.defined() ? shared.middle : arena.allocate(shared.shape, dtype());
    if (l == 0) {
      embedding_->forward(batch.tokens, kept.x, context);
      stream = {kept.x, Tensor()};
    }
    const std::size_t end = arena.mark();
    stream = blocks_[l].forward(stream, shared.layout, shared.workspace, kept, context);
    if (shared.recompute == Recompute::block) arena.release(end);
  }
  return stream;
}

void LanguageModel::loss_and_gradients(const ResidualStream& stream, const Tensor& targets,
                                       const Shared& shared, ExecutionContext& context) {
  const Arena::Scope temporaries(context.arena);
  const Tensor token_loss =
      context.arena.allocate({shared.layout.rows()}, accumulation_dtype(dtype()));
  output_->loss_and_gradients(stream, targets,
                              1.0 / static_cast<double>(shared.layout.global.tokens), token_loss,
                              shared.d_stream, context);
  sum(token_loss, shared.loss_sum, context.arena, context.stream);
}

void LanguageModel::backward(const TokenBatch& batch, const Shared& shared,
                             const std::function<void(int)>& segment_done,
                             ExecutionContext& context) {
  for (std::size_t l = blocks_.size(); l-- > 0;) {
    const Timeline::At place(context.timeline,
                             {.layer = static_cast<std::int64_t>(l), .backward = true});
    if (shared.recompute == Recompute::block) {
      blocks_[l].forward({saved_[l].x, Tensor()}, shared.layout, shared.workspace, saved_[l],
                         context);
    }
    blocks_[l].backward(shared.d_stream, shared.layout, shared.workspace, saved_[l], context);
    context.arena.release(marks_[l]);
    if (segment_done) segment_done(1 + static_cast<int>(l));
  }
  embedding_->backward(batch.tokens, shared.d_stream, context);
  if (segment_done) segment_done(0);
}

LossTerms LanguageModel::loss_terms(const Shared& shared, Stream& stream) {
  LossTerms terms;
  terms.cross_entropy = host_values<double>(shared.loss_sum, stream)[0] /
                        static_cast<double>(shared.layout.global.tokens);
  for (const NumberedMoeLayer& moe : moe_layers_) terms.router += moe.layer->take_losses(stream);
  return terms;
}

LossTerms LanguageModel::forward_backward(const TokenBatch& batch, const GlobalBatch& global,
                                          Recompute recompute,
                                          const std::function<void(int)>& segment_done,
                                          ExecutionContext& context) {
  check(batch);
  if (global.tokens < 1) {
    throw InvalidArgument("global batch of " + std::to_string(global.tokens) +
                          " predicted tokens: at least 1 is needed to divide by");
  }
  const Arena::Scope scope(context.arena);
  const Shared shared(
      *this, {batch.sequences, batch.length, global, batch.document_starts, batch.document_lengths},
      recompute, context.arena);
  const ResidualStream stream = forward(batch, shared, context);
  const Timeline::Scope phase(context.timeline, Phase::backward);
  loss_and_gradients(stream, batch.targets, shared, context);
  if (segment_done) segment_done(1 + static_cast<int>(blocks_.size()));
  backward(batch, shared, segment_done, context);
  return loss_terms(shared, context.stream);
}

std::vector<RoutingStatistics> LanguageModel::finish_step(ExecutionContext& context, bool applied) {
  std::vector<RoutingStatistics> statistics;
  if (moe_layers_.empty()) return statistics;

  const std::int64_t entries = config_.moe.experts + 2;  // dropped slots and rounds last
  const auto layers = static_cast<std::int64_t>(moe_layers_.size());
  std::vector<std::int64_t> counts;  // of all layers; they are summed on the host
  for (const NumberedMoeLayer& moe : moe_layers_) {
    const std::vector<std::int64_t> own = moe.layer->take_counts(context.stream);
    counts.insert(counts.end(), own.begin(), own.end());
    counts.push_back(moe.layer->take_extra_rounds());
  }
  mesh_.world().all_reduce(Tensor(counts.data(), {layers * entries}, DType::i64, Device::cpu()),
                           Reduction::sum, context.stream);

  for (std::int64_t l = 0; l < layers; ++l) {
    const auto first = counts.begin() + l * entries;
    std::vector<std::int64_t> row(first, first + entries);
    const NumberedMoeLayer& moe = moe_layers_[static_cast<std::size_t>(l)];
    RoutingStatistics of_layer;
    of_layer.layer = moe.number;
    of_layer.extra_rounds = row.back();
    row.pop_back();
    of_layer.dropped = row.back();
    row.pop_back();
    if (applied) moe.layer->update_bias(row, context.stream);
    of_layer.expert_rows = std::move(row);
    statistics.push_back(std::move(of_layer));
  }
  return statistics;
}

std::vector<ExchangeTraffic> LanguageModel::take_traffic() {
  std::vector<ExchangeTraffic> traffic;
  for (const NumberedMoeLayer& moe : moe_layers_) {
    traffic.push_back(moe.layer->take_traffic());
  }
  return traffic;
}

std::vector<TensorPiece> LanguageModel::router_bias_pieces() {
  std::vector<TensorPiece> pieces;
  for (const NumberedMoeLayer& moe : moe_layers_) {
    const Tensor bias = moe.layer->bias();
    if (!bias.defined()) continue;
    pieces.push_back(
        {.name = name_of_kind(router_bias_kind, "layers." + std::to_string(moe.number)),
         .shape = bias.shape(),
         .begin = 0,
         .data = bias});
  }
  return pieces;
}

}  // namespace polymoe
