// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>

#include "layers/attention_layer.h"
#include "layers/batch.h"
#include "layers/feed_forward.h"
#include "layers/rms_norm.h"
#include "runtime/context.h"

namespace polymoe {

/// The residual stream x + branch, the sum not yet formed: the norm that reads it next forms it in
/// the same pass. An undefined branch is zero.
struct ResidualStream {
  Tensor x, branch;  // [rows, hidden]
};

/// Pre-norm transformer block:
///   middle = x + attention(norm(x));  out = middle + feed_forward(norm(middle)).
/// Declares "NAME.attention_norm.weight", "NAME.attention.*", "NAME.feed_forward_norm.weight"; the
/// feed-forward, handed in, declares its own.
class TransformerBlock {
 public:
  /// What backward needs from forward. The norms' outputs are not kept but formed again.
  struct Saved {
    // Memory that the caller gives, to keep as long as it wants to run backward, or forward again.
    Tensor x, middle;  // [rows, hidden]
    // Filled by forward, in the arena.
    Tensor attention_inv_rms, feed_forward_inv_rms;  // [rows]
    AttentionLayer::Saved attention;
    std::unique_ptr<FeedForward::Saved> feed_forward;
  };

  /// Memory that all blocks of a model share. The same in forward and backward: a feed-forward
  /// keeps a reference to its input.
  struct Workspace {
    Tensor normed, branch;  // [rows, hidden]
  };

  TransformerBlock(ParameterStore& store, const std::string& name,
                   const AttentionSettings& attention, FeedForward& feed_forward);

  /// A Saved without memory yet; made once, used for every batch.
  Saved make_saved() const;

  /// Returns the stream behind the block: {saved.middle, workspace.branch}.
  ///
  /// `in` may be the result of the block before in the same workspace; with an undefined branch
  /// in.x is saved.x, which makes it run forward again from what was kept.
  ResidualStream forward(const ResidualStream& in, const BatchLayout& layout,
                         const Workspace& workspace, Saved& saved, ExecutionContext& context) const;

  /// d_stream: the gradient of the block's output on entry, of its input on return; in place.
  /// Adds to the parameters' gradients.
  void backward(Tensor d_stream, const BatchLayout& layout, const Workspace& workspace,
                Saved& saved, ExecutionContext& context) const;

  /// Forward, without a backward pass, of rows that sequences share. Collective where the
  /// feed-forward is.
  ResidualStream forward_shared(const ResidualStream& in, const SharedRows& shared,
                                const Workspace& workspace, Saved& saved,
                                ExecutionContext& context) const;

  /// Forward of the rows that follow those of each sequence, see AttentionLayer::decode. To the
  /// feed-forward single rows are sequences of one row each, all else is one. Collective where the
  /// feed-forward is.
  ResidualStream decode(const ResidualStream& in, std::span<const KeyValueRows> sequences,
                        const Workspace& workspace, Saved& saved, ExecutionContext& context) const;
  /// The same for one row of one sequence, see AttentionLayer::step and FeedForward::step: x
  /// becomes the block's output. `saved` is scratch.
  ///
  /// x, middle [1, hidden]; middle is overwritten
  void step(Tensor x, const Tensor& middle, const KeyValueRows& cache, Saved& saved,
            ExecutionContext& context) const;
  /// See FeedForward.
  bool step_is_recordable() const { return feed_forward_.step_is_recordable(); }

 private:
  template <class Attend, class Feed>
  ResidualStream run(const ResidualStream& in, const Workspace& workspace, Saved& saved,
                     Attend&& attend, Feed&& feed, ExecutionContext& context) const;
  /// The feed-forward of whole sequences.
  auto feed(const BatchLayout& layout, Saved& saved, ExecutionContext& context) const {
    return [&](const Tensor& x, const Tensor& y) {
      feed_forward_.forward(x, layout, *saved.feed_forward, y, context);
    };
  }

  RmsNorm attention_norm_;
  AttentionLayer attention_;
  RmsNorm feed_forward_norm_;
  FeedForward& feed_forward_;
};

}  // namespace polymoe
