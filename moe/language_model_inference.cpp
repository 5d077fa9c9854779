// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/embedding/embedding.h"
#include "layers/attention_layer.h"
#include "layers/batch.h"
#include "layers/shared_rows.h"
#include "layers/transformer_block.h"
#include "moe/decoding_cache.h"
#include "moe/language_model.h"
#include "moe/moe_layer.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/recorded_work.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"
#include "runtime/timeline.h"

namespace polymoe {

/// What a forward pass without a backward pass works in: every block the same memory.
struct LanguageModel::ForwardMemory {
  ForwardMemory(const Shape& shape, DType dtype, Arena& arena)
      : x(arena.allocate(shape, dtype)),
        middle(arena.allocate(shape, dtype)),
        workspace{.normed = arena.allocate(shape, dtype), .branch = arena.allocate(shape, dtype)} {}

  Tensor x, middle;
  TransformerBlock::Workspace workspace;
};

ResidualStream LanguageModel::run_blocks(const Tensor& tokens, const ForwardMemory& memory,
                                         const RunBlock& run, ExecutionContext& context) {
  embedding_->forward(tokens, memory.x, context);
  ResidualStream stream{memory.x, Tensor()};
  for (std::size_t l = 0; l < blocks_.size(); ++l) {
    const Timeline::At place(context.timeline, {.layer = static_cast<std::int64_t>(l)});
    const Arena::Scope block(context.arena);
    saved_[l].x = memory.x;
    saved_[l].middle = memory.middle;
    stream = run(l, stream, saved_[l]);
  }
  return stream;
}

Tensor LanguageModel::token_losses(const TokenBatch& batch, ExecutionContext& context) {
  return observe(batch, {}, context);
}

Tensor LanguageModel::observe(const TokenBatch& batch,
                              const std::function<void(const LayerObservation&)>& look,
                              ExecutionContext& context) {
  check(batch);
  Arena& arena = context.arena;
  const DType dtype = parameters_.dtype();
  const BatchLayout layout{
      batch.sequences,
      batch.length,
      {.tokens = batch.sequences * batch.length, .sequences = batch.sequences, .micro_batches = 1},
      batch.document_starts,
      batch.document_lengths};
  const Tensor losses = arena.allocate({layout.rows()}, accumulation_dtype(dtype));

  Timeline::Scope phase(context.timeline, Phase::forward);
  Arena::Scope scope(arena);
  const ForwardMemory memory({layout.rows(), config_.hidden}, dtype, arena);
  const ResidualStream stream = run_blocks(
      batch.tokens, memory,
      [&](std::size_t l, const ResidualStream& before, TransformerBlock::Saved& saved) {
        if (look && l == 0) look({.layer = -1, .x = before.x, .branch = before.branch});
        const ResidualStream after =
            blocks_[l].forward(before, layout, memory.workspace, saved, context);
        if (look) {
          look({.layer = static_cast<std::int64_t>(l),
                .x = after.x,
                .branch = after.branch,
                .feed_forward =
                    [&] { return feed_forwards_[l]->view(*saved.feed_forward, context); },
                .experts = experts_of(l)});
        }
        return after;
      },
      context);
  output_->loss(stream, batch.targets, losses, context);
  return losses;
}

const MoeLayer* LanguageModel::experts_of(std::size_t l) const {
  for (const NumberedMoeLayer& numbered : moe_layers_)
    if (numbered.number == static_cast<std::int64_t>(l)) return numbered.layer;
  return nullptr;
}

Tensor LanguageModel::shared_token_losses(const SharedTokenBatch& batch,
                                          ExecutionContext& context) {
  const ModelConfig& config = config_;
  if (config.moe.experts > 0 && config.moe.capacity_factor > 0.0)
    throw InvalidArgument("shared token losses: moe.capacity_factor must be 0");
  const SharedRows& shared = batch.rows;
  const std::int64_t rows = shared.rows(), predictions = batch.targets.dim(0);
  for (const SharedRows::Group& group : shared.groups) {
    if (group.sequences < 1 || group.known < 0 || group.known >= group.length)
      throw InvalidArgument(
          "shared token losses: a group of " + std::to_string(group.sequences) +
          " sequences with known " + std::to_string(group.known) +
          ": must be at least 1 with known in [0, length = " + std::to_string(group.length) + ")");
  }
  check_tensors("shared token losses", parameters_.device(),
                {{"tokens", batch.tokens, {rows}, DType::i32},
                 {"row_of", shared.row_of, {shared.places()}, DType::i32},
                 {"query_of", shared.query_of, {shared.queries()}, DType::i32},
                 {"place_of", shared.place_of, {rows}, DType::i32},
                 {"starts", shared.starts, {rows}, DType::i32},
                 {"predicting", batch.predicting, {predictions}, DType::i32},
                 {"targets", batch.targets, {predictions}, DType::i32}});
  Arena& arena = context.arena;
  const DType dtype = parameters_.dtype();
  const Tensor losses = arena.allocate({predictions}, accumulation_dtype(dtype));

  Timeline::Scope phase(context.timeline, Phase::forward);
  Arena::Scope scope(arena);
  const ForwardMemory memory({rows, config.hidden}, dtype, arena);
  const ResidualStream stream = run_blocks(
      batch.tokens, memory,
      [&](std::size_t l, const ResidualStream& before, TransformerBlock::Saved& saved) {
        return blocks_[l].forward_shared(before, shared, memory.workspace, saved, context);
      },
      context);
  // Only what predicts something reaches the projection to the vocabulary.
  const Tensor x = arena.allocate({predictions, config.hidden}, dtype);
  const Tensor branch = arena.allocate({predictions, config.hidden}, dtype);
  embedding_forward(batch.predicting, stream.x, x, context.stream);
  embedding_forward(batch.predicting, stream.branch, branch, context.stream);
  output_->loss({x, branch}, batch.targets, losses, context);
  return losses;
}

void LanguageModel::check(const Continuation& sequence) const {
  const DecodingCache& cache = *sequence.cache;
  if (sequence.tokens < 1 || sequence.tokens > cache.capacity() - cache.length()) {
    throw InvalidArgument("next token logits: " + std::to_string(sequence.tokens) +
                          " tokens, but there must be at least 1 and at most " +
                          std::to_string(cache.capacity() - cache.length()) +
                          ", what the cache has room for");
  }
  if (cache.layers_.size() != blocks_.size()) {
    throw InvalidArgument("next token logits: the cache has " +
                          std::to_string(cache.layers_.size()) + " layers, the model " +
                          std::to_string(blocks_.size()));
  }
}

Tensor LanguageModel::next_token_logits(const Tensor& tokens, DecodingCache& cache,
                                        ExecutionContext& context) {
  const std::int64_t rows = tokens.defined() && tokens.shape().rank() == 1 ? tokens.dim(0) : 0;
  const Continuation sequence{.cache = &cache, .tokens = rows};
  return next_token_logits(tokens, {&sequence, 1}, context).view({config_.vocab});
}

Tensor LanguageModel::next_token_logits(const Tensor& tokens,
                                        std::span<const Continuation> sequences,
                                        ExecutionContext& context) {
  std::int64_t rows = 0, most = 0;
  for (const Continuation& sequence : sequences) {
    check(sequence);
    rows += sequence.tokens;
    most = std::max(most, sequence.tokens);
  }
  check_tensors("next token logits", parameters_.device(),
                {{"tokens", tokens, {rows}, DType::i32}});
  if (config_.moe.experts > 0 && config_.moe.capacity_factor > 0.0 && most > 1 &&
      sequences.size() > 1) {
    throw InvalidArgument("next token logits: " + std::to_string(sequences.size()) +
                          " sequences, one with " + std::to_string(most) +
                          " tokens: with moe.capacity_factor several have one each");
  }
  const Timeline::Scope phase(context.timeline, Phase::forward);
  if (rows == 1) return step(tokens, *sequences.front().cache, context);
  return continue_sequences(tokens, sequences, context);
}

Tensor LanguageModel::continue_sequences(const Tensor& tokens,
                                         std::span<const Continuation> sequences,
                                         ExecutionContext& context) {
  Arena& arena = context.arena;
  const DType dtype = parameters_.dtype();
  const auto count = static_cast<std::int64_t>(sequences.size());
  const std::int64_t rows = tokens.dim(0);
  const Tensor logits = arena.allocate({count, config_.vocab}, accumulation_dtype(dtype));

  const Arena::Scope scope(arena);
  std::vector<std::int32_t> lengths, last;  // of each sequence: positions filled, its last row
  std::int32_t row = 0;
  for (const Continuation& sequence : sequences) {
    lengths.push_back(static_cast<std::int32_t>(sequence.cache->length_));
    row += static_cast<std::int32_t>(sequence.tokens);
    last.push_back(row - 1);
  }
  const auto moved = [&](const std::vector<std::int32_t>& values) {
    const Tensor tensor = arena.allocate({count}, DType::i32);
    set_values(std::span(values), tensor, context.stream);
    return tensor;
  };
  const Tensor positions = moved(lengths), last_rows = moved(last);
  const ForwardMemory memory({rows, config_.hidden}, dtype, arena);
  std::vector<KeyValueRows> earlier;
  const ResidualStream stream = run_blocks(
      tokens, memory,
      [&](std::size_t l, const ResidualStream& before, TransformerBlock::Saved& saved) {
        earlier.clear();
        for (std::int64_t s = 0; s < count; ++s) {
          const Continuation& sequence = sequences[static_cast<std::size_t>(s)];
          const DecodingCache& cache = *sequence.cache;
          earlier.push_back({.keys = *cache.layers_[l].keys,
                             .values = *cache.layers_[l].values,
                             .length = cache.length_,
                             .rows = sequence.tokens,
                             .position = positions.rows(s, s + 1),
                             .tickets = *cache.tickets_});
        }
        return blocks_[l].decode(before, earlier, memory.workspace, saved, context);
      },
      context);
  for (const Continuation& sequence : sequences) sequence.cache->length_ += sequence.tokens;
  if (count == 0) return logits;
  // Only what a token follows reaches the projection to the vocabulary.
  ResidualStream end{stream.x.rows(rows - 1, rows), stream.branch.rows(rows - 1, rows)};
  if (count > 1) {
    end = {arena.allocate({count, config_.hidden}, dtype),
           arena.allocate({count, config_.hidden}, dtype)};
    embedding_forward(last_rows, stream.x, end.x, context.stream);
    embedding_forward(last_rows, stream.branch, end.branch, context.stream);
  }
  output_->logits(end, logits, context);
  return logits;
}

bool LanguageModel::step_is_recordable() const {
  return std::ranges::all_of(
      blocks_, [](const TransformerBlock& block) { return block.step_is_recordable(); });
}

/// The work of a step, the same at every position.
Tensor LanguageModel::submit_step(const DecodingCache& cache, ExecutionContext& context) {
  const DType dtype = parameters_.dtype();
  const Tensor logits = context.arena.allocate({1, config_.vocab}, accumulation_dtype(dtype));
  const Arena::Scope scope(context.arena);
  const Tensor x = context.arena.allocate({1, config_.hidden}, dtype);
  const Tensor middle = context.arena.allocate({1, config_.hidden}, dtype);
  embedding_->forward(*cache.token_, x, context);
  for (std::size_t l = 0; l < blocks_.size(); ++l) {
    const Timeline::At place(context.timeline, {.layer = static_cast<std::int64_t>(l)});
    const Arena::Scope block(context.arena);
    const KeyValueRows earlier{.keys = *cache.layers_[l].keys,
                               .values = *cache.layers_[l].values,
                               .length = cache.length_,
                               .position = *cache.position_,
                               .tickets = *cache.tickets_};
    blocks_[l].step(x, middle, earlier, saved_[l], context);
  }
  output_->row_logits(x, logits, context);
  return logits;
}

Tensor LanguageModel::step(const Tensor& token, DecodingCache& cache, ExecutionContext& context) {
  Stream& stream = context.stream;
  Arena& arena = context.arena;
  const auto position = static_cast<std::int32_t>(cache.length_);
  set_values(std::span(&position, 1), *cache.position_, stream);
  copy(token, *cache.token_, stream);
  ++cache.length_;
  const bool records = stream.device().type == DeviceType::cuda &&
                       cache.submission_ == StepSubmission::recorded && step_is_recordable();
  if (!records) return submit_step(cache, context);
  if (cache.step_bytes_ == 0) {
    // The first one loads what the device needs, and shows what memory a step takes.
    const std::size_t before = arena.mark(), high_water = arena.high_water();
    arena.reset_high_water();
    const Tensor logits = submit_step(cache, context);
    cache.step_bytes_ = arena.high_water() - before;
    if (high_water > arena.mark()) {
      const Arena::Scope restored(arena);
      arena.allocate({static_cast<std::int64_t>(high_water - arena.mark())}, DType::u8);
    }
    return logits;
  }
  std::unique_ptr<DecodingCache::Recording>& recording = cache.recording_;
  if (!recording || recording->model != this || recording->stream != stream.native()) {
    recording.reset();
    auto made = std::make_unique<DecodingCache::Recording>(
        Arena::Options{.device = stream.device(), .capacity = cache.step_bytes_, .poison = false});
    Timeline unseen;  // its marks in the stream are no part of a step
    ExecutionContext recorded{stream, made->arena, unseen};
    made->work = std::make_unique<RecordedWork>(
        stream, [&] { made->logits = submit_step(cache, recorded); });
    made->model = this;
    made->stream = stream.native();
    recording = std::move(made);
  }
  recording->work->run(stream);
  return recording->logits;
}

}  // namespace polymoe
