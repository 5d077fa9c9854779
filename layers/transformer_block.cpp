// SPDX-License-Identifier: Apache-2.0
#include "layers/transformer_block.h"

#include <cassert>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "layers/attention_layer.h"
#include "layers/batch.h"
#include "layers/feed_forward.h"
#include "layers/shared_rows.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/dtype.h"

namespace polymoe {

TransformerBlock::TransformerBlock(ParameterStore& store, const std::string& name,
                                   const AttentionSettings& attention, FeedForward& feed_forward)
    : attention_norm_(store, name + ".attention_norm", attention.hidden, attention.norm_epsilon),
      attention_(store, name + ".attention", attention),
      feed_forward_norm_(store, name + ".feed_forward_norm", attention.hidden,
                         attention.norm_epsilon),
      feed_forward_(feed_forward) {}

TransformerBlock::Saved TransformerBlock::make_saved() const {
  Saved saved;
  saved.feed_forward = feed_forward_.make_saved();
  return saved;
}

template <class Attend, class Feed>
ResidualStream TransformerBlock::run(const ResidualStream& in, const Workspace& workspace,
                                     Saved& saved, Attend&& attend, Feed&& feed,
                                     ExecutionContext& context) const {
  const DType dtype = accumulation_dtype(workspace.normed.dtype());
  const std::int64_t rows = workspace.normed.dim(0);
  saved.attention_inv_rms = context.arena.allocate({rows}, dtype);
  saved.feed_forward_inv_rms = context.arena.allocate({rows}, dtype);
  if (in.branch.defined()) {
    attention_norm_.forward_sum(in.x, in.branch, saved.x, workspace.normed, saved.attention_inv_rms,
                                context);
  } else {
    assert(in.x.raw() == saved.x.raw());
    attention_norm_.forward(saved.x, workspace.normed, saved.attention_inv_rms, context);
  }
  attend(workspace.normed, workspace.branch);
  feed_forward_norm_.forward_sum(saved.x, workspace.branch, saved.middle, workspace.normed,
                                 saved.feed_forward_inv_rms, context);
  feed(workspace.normed, workspace.branch);
  return {saved.middle, workspace.branch};
}

ResidualStream TransformerBlock::forward(const ResidualStream& in, const BatchLayout& layout,
                                         const Workspace& workspace, Saved& saved,
                                         ExecutionContext& context) const {
  return run(
      in, workspace, saved,
      [&](const Tensor& x, const Tensor& y) {
        attention_.forward(x, layout, saved.attention, y, context);
      },
      feed(layout, saved, context), context);
}

ResidualStream TransformerBlock::forward_shared(const ResidualStream& in, const SharedRows& shared,
                                                const Workspace& workspace, Saved& saved,
                                                ExecutionContext& context) const {
  const BatchLayout alone = shared.rows_alone();
  return run(
      in, workspace, saved,
      [&](const Tensor& x, const Tensor& y) { attention_.forward_shared(x, shared, y, context); },
      feed(alone, saved, context), context);
}

ResidualStream TransformerBlock::decode(const ResidualStream& in,
                                        std::span<const KeyValueRows> sequences,
                                        const Workspace& workspace, Saved& saved,
                                        ExecutionContext& context) const {
  const std::int64_t rows = workspace.normed.dim(0);
  const bool single = rows == std::ssize(sequences);
  const BatchLayout layout{
      .sequences = single ? rows : 1,
      .length = single ? 1 : rows,
      .global = {.tokens = rows, .sequences = single ? rows : 1, .micro_batches = 1}};
  return run(
      in, workspace, saved,
      [&](const Tensor& x, const Tensor& y) { attention_.decode(x, sequences, y, context); },
      feed(layout, saved, context), context);
}

void TransformerBlock::step(Tensor x, const Tensor& middle, const KeyValueRows& cache, Saved& saved,
                            ExecutionContext& context) const {
  attention_.step(x, attention_norm_, cache, middle, context);
  feed_forward_.step(middle, feed_forward_norm_, *saved.feed_forward, x, context);
}

void TransformerBlock::backward(Tensor d_stream, const BatchLayout& layout,
                                const Workspace& workspace, Saved& saved,
                                ExecutionContext& context) const {
  const Tensor& d_normed = workspace.branch;
  feed_forward_norm_.forward(saved.middle, workspace.normed, saved.feed_forward_inv_rms, context);
  feed_forward_.backward(d_stream, layout, *saved.feed_forward, d_normed, context);
  feed_forward_norm_.backward(d_normed, saved.middle, saved.feed_forward_inv_rms, Write::accumulate,
                              d_stream, context);

  attention_norm_.forward(saved.x, workspace.normed, saved.attention_inv_rms, context);
  attention_.backward(d_stream, workspace.normed, layout, saved.attention, d_normed, context);
  attention_norm_.backward(d_normed, saved.x, saved.attention_inv_rms, Write::accumulate, d_stream,
                           context);
}

}  // namespace polymoe
