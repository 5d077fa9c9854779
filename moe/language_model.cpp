// SPDX-License-Identifier: Apache-2.0
#include "moe/language_model.h"

#include <string>
#include <utility>

#include "kernels/check.h"
#include "kernels/reduction/reduction.h"
#include "layers/dense_feed_forward.h"
#include "moe/language_model_impl.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "runtime/copy.h"

namespace polymoe {
namespace {

void require_valid(const ModelConfig& config) {
  std::string all;
  for (const std::string& line : config.violations()) all += (all.empty() ? "" : "; ") + line;
  if (!all.empty()) throw InvalidArgument(all);
}

}  // namespace

LanguageModel::Impl::Impl(const ModelConfig& model_config, const ProcessMesh& process_mesh,
                          ParameterStore& store)
    : config(model_config), mesh(process_mesh), parameters(store) {
  require_valid(config);
  const Initializer initializer{.kind = InitialValues::normal,
                                .scale = config.init_std,
                                .truncation = config.init_truncation,
                                .listed = {}};
  const AttentionSettings attention{.hidden = config.hidden,
                                    .heads = config.heads,
                                    .kv_heads = config.key_value_heads(),
                                    .qk_norm = config.qk_norm,
                                    .norm_epsilon = config.norm_epsilon,
                                    .rope_theta = config.rope_theta,
                                    .initializer = initializer};
  store.begin_segment();
  embedding.emplace(store, EmbeddingLayer::Extents{.vocab = config.vocab, .hidden = config.hidden},
                    initializer);

  const auto layers = static_cast<std::size_t>(config.layers);
  blocks.reserve(layers);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    store.begin_segment();
    const std::string name = "layers." + std::to_string(layer);
    if (config.is_moe_layer(layer)) {
      auto moe = std::make_unique<MoeLayer>(config, layer, mesh, store);
      moe_layers.push_back({layer, moe.get()});
      feed_forwards.push_back(std::move(moe));
    } else {
      feed_forwards.push_back(std::make_unique<DenseFeedForward>(
          store, name + ".feed_forward",
          DenseFeedForward::Extents{.hidden = config.hidden, .width = config.dense_width()},
          config.activation, initializer));
    }
    blocks.emplace_back(store, name, attention, *feed_forwards.back());
    saved.push_back(blocks.back().make_saved());
  }
  marks.resize(layers);

  store.begin_segment();
  output.emplace(store, OutputLayer::Settings{.vocab = config.vocab,
                                              .hidden = config.hidden,
                                              .norm_epsilon = config.norm_epsilon,
                                              .initializer = initializer,
                                              .tied = config.tied ? &embedding->table() : nullptr});
}

void LanguageModel::Impl::check(const TokenBatch& batch) const {
  if (batch.sequences < 0 || batch.length < 1) {
    throw InvalidArgument("batch of " + std::to_string(batch.sequences) + " sequences of length " +
                          std::to_string(batch.length) +
                          ": sequences must be at least 0 and their length at least 1");
  }
  const Shape rows{batch.sequences * batch.length};
  check_tensors(
      "language model", parameters.device(),
      {{"tokens", batch.tokens, rows, DType::i32}, {"targets", batch.targets, rows, DType::i32}});
}

LanguageModel::LanguageModel(const ModelConfig& config, const ProcessMesh& mesh,
                             ParameterStore& store)
    : impl_(std::make_unique<Impl>(config, mesh, store)) {}

LanguageModel::~LanguageModel() = default;

const ModelConfig& LanguageModel::config() const { return impl_->config; }

LossTerms LanguageModel::forward_backward(const TokenBatch& batch, const GlobalBatch& global,
                                          Recompute recompute,
                                          const std::function<void(int)>& segment_done,
                                          ExecutionContext& context) {
  Impl& model = *impl_;
  model.check(batch);
  if (global.tokens < 1) {
    throw InvalidArgument("global batch of " + std::to_string(global.tokens) +
                          " predicted tokens: at least 1 is needed to divide by");
  }
  const auto done = [&](int segment) {
    if (segment_done) segment_done(segment);
  };
  Arena& arena = context.arena;
  const DType dtype = model.dtype();
  const BatchLayout layout{batch.sequences, batch.length, global};
  const Shape stream_shape{layout.rows(), model.config.hidden};
  const int layers = static_cast<int>(model.blocks.size());

  // The gradient of the residual stream is one buffer, updated in place from block to block; it and
  // what all blocks share lie below what the blocks keep, which goes in the reverse of its order.
  Arena::Scope scope(arena);
  const Tensor loss_sum = arena.allocate({1}, DType::f64);
  const Tensor d_stream = arena.allocate(stream_shape, dtype);
  const TransformerBlock::Workspace workspace{.normed = arena.allocate(stream_shape, dtype),
                                              .branch = arena.allocate(stream_shape, dtype)};
  const Tensor shared_middle =
      recompute == Recompute::block ? arena.allocate(stream_shape, dtype) : Tensor();

  ResidualStream stream;
  {
    Timeline::Scope phase(context.timeline, Phase::forward);
    for (std::size_t l = 0; l < model.blocks.size(); ++l) {
      TransformerBlock::Saved& saved = model.saved[l];
      saved.feed_forward->keep_pre_activations = recompute != Recompute::activation;
      model.marks[l] = arena.mark();
      saved.x = arena.allocate(stream_shape, dtype);
      saved.middle = shared_middle.defined() ? shared_middle : arena.allocate(stream_shape, dtype);
      if (l == 0) {
        model.embedding->forward(batch.tokens, saved.x, context);
        stream = {saved.x, Tensor()};
      }
      const std::size_t kept = arena.mark();
      stream = model.blocks[l].forward(stream, layout, workspace, saved, context);
      if (recompute == Recompute::block) arena.release(kept);
    }
  }

  Timeline::Scope phase(context.timeline, Phase::backward);
  {
    Arena::Scope temporaries(arena);
    const Tensor token_loss = arena.allocate({layout.rows()}, accumulation_dtype(dtype));
    model.output->loss_and_gradients(stream, batch.targets,
                                     1.0 / static_cast<double>(global.tokens), token_loss, d_stream,
                                     context);
    sum(token_loss, loss_sum, arena, context.stream);
  }
  done(1 + layers);
  for (int l = layers - 1; l >= 0; --l) {
    const auto index = static_cast<std::size_t>(l);
    TransformerBlock::Saved& saved = model.saved[index];
    if (recompute == Recompute::block) {
      model.blocks[index].forward({saved.x, Tensor()}, layout, workspace, saved, context);
    }
    model.blocks[index].backward(d_stream, layout, workspace, saved, context);
    arena.release(model.marks[index]);
    done(1 + l);
  }
  model.embedding->backward(batch.tokens, d_stream, context);
  done(0);

  LossTerms terms;
  terms.cross_entropy =
      host_values<double>(loss_sum, context.stream)[0] / static_cast<double>(global.tokens);
  for (const Impl::NumberedMoeLayer& moe : model.moe_layers) {
    const MoeLayer::RouterLosses losses = moe.layer->take_losses(context.stream);
    terms.balance += losses.balance;
    terms.z += losses.z;
  }
  return terms;
}

std::vector<RoutingStatistics> LanguageModel::finish_step(ExecutionContext& context) {
  Impl& model = *impl_;
  std::vector<RoutingStatistics> statistics;
  if (model.moe_layers.empty()) return statistics;

  const std::int64_t entries = model.config.moe.experts + 1;  // the dropped slots last
  const auto layers = static_cast<std::int64_t>(model.moe_layers.size());
  std::vector<std::int64_t> counts;  // of all layers; they are summed on the host
  for (const Impl::NumberedMoeLayer& moe : model.moe_layers) {
    const std::vector<std::int64_t> own = moe.layer->take_counts(context.stream);
    counts.insert(counts.end(), own.begin(), own.end());
  }
  model.mesh.world().all_reduce(
      Tensor(counts.data(), {layers * entries}, DType::i64, Device::cpu()), Reduction::sum,
      context.stream);

  for (std::int64_t l = 0; l < layers; ++l) {
    const auto first = counts.begin() + l * entries;
    std::vector<std::int64_t> row(first, first + entries);
    const Impl::NumberedMoeLayer& moe = model.moe_layers[static_cast<std::size_t>(l)];
    const std::int64_t dropped = row.back();
    row.pop_back();
    moe.layer->update_bias(row, context.stream);
    statistics.push_back({.layer = moe.number, .expert_rows = std::move(row), .dropped = dropped});
  }
  return statistics;
}

std::vector<TensorPiece> LanguageModel::router_bias_pieces() {
  std::vector<TensorPiece> pieces;
  for (const Impl::NumberedMoeLayer& moe : impl_->moe_layers) {
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
