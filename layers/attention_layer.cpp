// SPDX-License-Identifier: Apache-2.0
#include "layers/attention_layer.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_step.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/embedding/embedding.h"
#include "kernels/matmul/row_products.h"
#include "kernels/rotary/rotary.h"
#include "layers/batch.h"
#include "layers/shared_rows.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {

AttentionLayer::AttentionLayer(ParameterStore& store, const std::string& name,
                               const AttentionSettings& settings)
    : settings_(settings),
      q_(store, name + ".q", {settings.hidden, settings.hidden}, settings.initializer),
      k_(store, name + ".k", {kv_width(), settings.hidden}, settings.initializer),
      v_(store, name + ".v", {kv_width(), settings.hidden}, settings.initializer),
      o_(store, name + ".o", {settings.hidden, settings.hidden}, settings.initializer) {
  if (settings.qk_norm) {
    q_norm_.emplace(store, name + ".q_norm", settings.hidden, settings.norm_epsilon);
    k_norm_.emplace(store, name + ".k_norm", kv_width(), settings.norm_epsilon);
  }
}

AttentionShape AttentionLayer::shape_of(const BatchLayout& layout) const {
  return {.batch = layout.sequences,
          .query_length = layout.length,
          .key_length = layout.length,
          .heads = settings_.heads,
          .kv_heads = settings_.kv_heads,
          .head_dim = head_dim(),
          .document_starts = layout.document_starts,
          .document_lengths = layout.document_lengths};
}

RotaryPositions AttentionLayer::positions_of(const BatchLayout& layout) const {
  return {.sequence_length = layout.length,
          .first_position = 0,
          .theta = settings_.rope_theta,
          .document_starts = layout.document_starts};
}

Tensor AttentionLayer::by_head(const Tensor& x) const {
  return x.view({x.dim(0), x.dim(1) / head_dim(), head_dim()});
}

void AttentionLayer::forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
                             ExecutionContext& context) const {
  Arena& arena = context.arena;
  const std::int64_t rows = layout.rows();

  saved.q = arena.allocate({rows, settings_.hidden}, x.dtype());
  saved.k = arena.allocate({rows, kv_width()}, x.dtype());
  saved.v = arena.allocate({rows, kv_width()}, x.dtype());
  saved.out = arena.allocate({rows, settings_.hidden}, x.dtype());
  const DType wide = accumulation_dtype(x.dtype());
  saved.log_sum_exp = arena.allocate({layout.sequences, settings_.heads, layout.length}, wide);
  if (settings_.qk_norm) {
    saved.q_inv_rms = arena.allocate({rows}, wide);
    saved.k_inv_rms = arena.allocate({rows}, wide);
  }

  Arena::Scope scope(arena);
  q_.forward(x, saved.q, context);
  k_.forward(x, saved.k, context);
  v_.forward(x, saved.v, context);
  // Without a norm the rotation is its own inverse's transpose: the unrotated vectors are not
  // needed again. With one they are, and the rotated ones are formed again in the backward pass.
  const RotaryPositions positions = positions_of(layout);
  Tensor q = saved.q;
  Tensor k = saved.k;
  if (settings_.qk_norm) {
    q = arena.allocate(saved.q.shape(), x.dtype());
    k = arena.allocate(saved.k.shape(), x.dtype());
    q_norm_->forward_rotated(positions, by_head(saved.q), by_head(q), saved.q_inv_rms, context);
    k_norm_->forward_rotated(positions, by_head(saved.k), by_head(k), saved.k_inv_rms, context);
  } else {
    rotary_forward(positions, by_head(q), context.stream);
    rotary_forward(positions, by_head(k), context.stream);
  }
  attention_forward(shape_of(layout), by_head(q), by_head(k), by_head(saved.v), by_head(saved.out),
                    saved.log_sum_exp, arena, context.stream);
  o_.forward(saved.out, y, context);
}

void AttentionLayer::backward(const Tensor& d_y, const Tensor& x, const BatchLayout& layout,
                              const Saved& saved, Tensor d_x, ExecutionContext& context) const {
  Arena& arena = context.arena;
  const RotaryPositions positions = positions_of(layout);

  Arena::Scope scope(arena);
  const Tensor d_q = arena.allocate(saved.q.shape(), x.dtype());
  const Tensor d_k = arena.allocate(saved.k.shape(), x.dtype());
  const Tensor d_v = arena.allocate(saved.v.shape(), x.dtype());
  {
    Arena::Scope temporaries(arena);
    const Tensor d_out = arena.allocate(saved.out.shape(), x.dtype());
    o_.backward(d_y, saved.out, Write::overwrite, d_out, context);
    Tensor q = saved.q;
    Tensor k = saved.k;
    if (settings_.qk_norm) {
      q = arena.allocate(saved.q.shape(), x.dtype());
      k = arena.allocate(saved.k.shape(), x.dtype());
      q_norm_->forward_rotated(positions, by_head(saved.q), by_head(q), saved.q_inv_rms, context);
      k_norm_->forward_rotated(positions, by_head(saved.k), by_head(k), saved.k_inv_rms, context);
    }
    attention_backward(shape_of(layout), by_head(d_out), by_head(q), by_head(k), by_head(saved.v),
                       by_head(saved.out), saved.log_sum_exp, by_head(d_q), by_head(d_k),
                       by_head(d_v), arena, context.stream);
  }
  if (settings_.qk_norm) {
    q_norm_->backward_rotated(positions, by_head(d_q), by_head(saved.q), saved.q_inv_rms,
                              by_head(d_q), context);
    k_norm_->backward_rotated(positions, by_head(d_k), by_head(saved.k), saved.k_inv_rms,
                              by_head(d_k), context);
  } else {
    rotary_backward(positions, by_head(d_q), context.stream);
    rotary_backward(positions, by_head(d_k), context.stream);
  }
  q_.backward(d_q, x, Write::overwrite, d_x, context);
  k_.backward(d_k, x, Write::accumulate, d_x, context);
  v_.backward(d_v, x, Write::accumulate, d_x, context);
}

/// In place, behind the norm where there is one.
void AttentionLayer::rotate(const RotaryPositions& positions, const Tensor& q, const Tensor& k,
                            ExecutionContext& context) const {
  if (settings_.qk_norm) {
    Arena::Scope scope(context.arena);
    const Tensor inv_rms = context.arena.allocate({q.dim(0)}, accumulation_dtype(q.dtype()));
    q_norm_->forward_rotated(positions, by_head(q), by_head(q), inv_rms, context);
    k_norm_->forward_rotated(positions, by_head(k), by_head(k), inv_rms, context);
  } else {
    rotary_forward(positions, by_head(q), context.stream);
    rotary_forward(positions, by_head(k), context.stream);
  }
}

void AttentionLayer::forward_shared(const Tensor& x, const SharedRows& shared, Tensor y,
                                    ExecutionContext& context) const {
  if (shared.groups.empty()) return;
  Arena& arena = context.arena;
  const std::int64_t places = shared.places();
  const std::int64_t queries = shared.queries();
  Arena::Scope scope(arena);
  const Tensor q = arena.allocate({queries, settings_.hidden}, x.dtype());
  const Tensor k = arena.allocate({places, kv_width()}, x.dtype());
  const Tensor v = arena.allocate({places, kv_width()}, x.dtype());
  {
    // Each row once, and then at all of its places.
    Arena::Scope temporary(arena);
    const Tensor q_rows = arena.allocate({shared.rows(), settings_.hidden}, x.dtype());
    const Tensor k_rows = arena.allocate({shared.rows(), kv_width()}, x.dtype());
    const Tensor v_rows = arena.allocate({shared.rows(), kv_width()}, x.dtype());
    q_.forward(x, q_rows, context);
    k_.forward(x, k_rows, context);
    v_.forward(x, v_rows, context);
    rotate({.sequence_length = shared.rows(),
            .first_position = 0,
            .theta = settings_.rope_theta,
            .document_starts = shared.starts},
           q_rows, k_rows, context);
    embedding_forward(shared.query_of, q_rows, q, context.stream);
    embedding_forward(shared.row_of, k_rows, k, context.stream);
    embedding_forward(shared.row_of, v_rows, v, context.stream);
  }
  const Tensor out = arena.allocate({queries, settings_.hidden}, x.dtype());
  std::int64_t first_query = 0, first_key = 0;
  for (const SharedRows::Group& group : shared.groups) {
    const Arena::Scope temporary(arena);
    const std::int64_t length = group.length - group.known;
    const AttentionShape shape{.batch = group.sequences,
                               .query_length = length,
                               .key_length = group.length,
                               .heads = settings_.heads,
                               .kv_heads = settings_.kv_heads,
                               .head_dim = head_dim(),
                               .unprepared = true};
    const Tensor log_sum_exp =
        arena.allocate({group.sequences, settings_.heads, length}, accumulation_dtype(x.dtype()));
    const auto queries_of = [&](const Tensor& all) {
      return by_head(all.rows(first_query, first_query + group.queries()));
    };
    const auto keys_of = [&](const Tensor& all) {
      return by_head(all.rows(first_key, first_key + group.places()));
    };
    attention_forward(shape, queries_of(q), keys_of(k), keys_of(v), queries_of(out), log_sum_exp,
                      arena, context.stream);
    first_query += group.queries();
    first_key += group.places();
  }
  const Tensor rows = arena.allocate({shared.rows(), settings_.hidden}, x.dtype());
  embedding_forward(shared.place_of, out, rows, context.stream);
  o_.forward(rows, y, context);
}

void AttentionLayer::decode(const Tensor& x, std::span<const KeyValueRows> sequences, Tensor y,
                            ExecutionContext& context) const {
  if (sequences.empty()) return;
  Arena& arena = context.arena;
  const std::int64_t rows = x.dim(0);

  Arena::Scope scope(arena);
  const Tensor q = arena.allocate({rows, settings_.hidden}, x.dtype());
  const Tensor out = arena.allocate({rows, settings_.hidden}, x.dtype());
  // Those of one sequence are formed where they are kept.
  const bool in_place = sequences.size() == 1 && rows > 1;
  const auto place_of = [&](const Tensor& kept) {
    if (!in_place) return arena.allocate({rows, kv_width()}, x.dtype());
    const std::int64_t first = sequences.front().length;
    return kept.rows(first, first + rows).view({rows, kv_width()});
  };
  const Tensor k = place_of(sequences.front().keys), v = place_of(sequences.front().values);
  q_.forward(x, q, context);
  k_.forward(x, k, context);
  v_.forward(x, v, context);
  std::int64_t first = 0;
  for (const KeyValueRows& sequence : sequences) {
    const std::int64_t end = first + sequence.rows;
    attend_cached(sequence, q.rows(first, end), k.rows(first, end), v.rows(first, end),
                  out.rows(first, end), context);
    first = end;
  }
  o_.forward(out, y, context);
}

void AttentionLayer::attend_cached(const KeyValueRows& cache, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& out,
                                   ExecutionContext& context) const {
  Arena& arena = context.arena;
  const std::int64_t rows = cache.rows, end = cache.length + rows;
  if (rows == 1 && cache.position.defined()) return attend_row(cache, q, k, v, out, context);
  const Arena::Scope scope(arena);
  const Tensor log_sum_exp =
      arena.allocate({1, settings_.heads, rows}, accumulation_dtype(q.dtype()));
  rotate({.sequence_length = rows, .first_position = cache.length, .theta = settings_.rope_theta},
         q, k, context);
  const auto keep = [&](const Tensor& added, const Tensor& kept) {
    const Tensor to = kept.rows(cache.length, end);
    if (added.raw() != to.raw()) copy(by_head(added), to, context.stream);
  };
  keep(k, cache.keys);
  keep(v, cache.values);
  const AttentionShape shape{.batch = 1,
                             .query_length = rows,
                             .key_length = end,
                             .heads = settings_.heads,
                             .kv_heads = settings_.kv_heads,
                             .head_dim = head_dim(),
                             .unprepared = true};
  attention_forward(shape, by_head(q), cache.keys.rows(0, end), cache.values.rows(0, end),
                    by_head(out), log_sum_exp, arena, context.stream);
}

void AttentionLayer::attend_row(const KeyValueRows& cache, const Tensor& q, const Tensor& k,
                                const Tensor& v, const Tensor& out,
                                ExecutionContext& context) const {
  const bool normed = settings_.qk_norm;
  attention_step({.heads = settings_.heads,
                  .kv_heads = settings_.kv_heads,
                  .head_dim = head_dim(),
                  .theta = settings_.rope_theta,
                  .norm_epsilon = settings_.norm_epsilon},
                 {.q = q,
                  .k = k,
                  .v = v,
                  .q_norm = normed ? q_norm_->scale() : Tensor(),
                  .k_norm = normed ? k_norm_->scale() : Tensor()},
                 {.keys = cache.keys,
                  .values = cache.values,
                  .position = cache.position,
                  .tickets = cache.tickets},
                 out, context.arena, context.stream);
}

void AttentionLayer::step(const Tensor& x, const RmsNorm& norm, const KeyValueRows& cache, Tensor y,
                          ExecutionContext& context) const {
  Arena& arena = context.arena;
  const Arena::Scope scope(arena);
  const Tensor q = arena.allocate({1, settings_.hidden}, x.dtype());
  const Tensor k = arena.allocate({1, kv_width()}, x.dtype());
  const Tensor v = arena.allocate({1, kv_width()}, x.dtype());
  const Tensor out = arena.allocate({1, settings_.hidden}, x.dtype());
  const std::array<RowProduct, 3> projections = {
      {{q_.weight(), q}, {k_.weight(), k}, {v_.weight(), v}}};
  row_products(norm.of_row(x), projections, arena, context.stream);
  attend_row(cache, q, k, v, out, context);
  const RowProduct sum{o_.weight(), y, x};
  row_products({.x = out}, {&sum, 1}, arena, context.stream);
}

}  // namespace polymoe
