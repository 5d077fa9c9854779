// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "layers/rms_norm.h"
#include "layers/transformer_block.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

/// Final norm, output projection and cross-entropy. Declares "final_norm.weight" and, unless it
/// shares a table, "output.weight" [vocab, hidden].
class OutputLayer {
 public:
  struct Settings {
    std::int64_t vocab = 0;
    std::int64_t hidden = 0;
    double norm_epsilon = 1e-5;
    Initializer initializer;
    Parameter* tied = nullptr;  // the embedding's table as the projection
  };

  OutputLayer(ParameterStore& store, const Settings& settings);

  /// token_loss[r] = cross-entropy of targets[r]; 0 where that is -1. in.branch is overwritten by
  /// the sum of the stream.
  ///
  /// targets [rows] i32; token_loss [rows]
  void loss(const ResidualStream& in, const Tensor& targets, Tensor token_loss,
            ExecutionContext& context) const;

  /// The same, and the gradients of scale * sum(token_loss): overwrites d_stream, adds to the
  /// parameters' gradients. in.branch is overwritten.
  ///
  /// d_stream [rows, hidden]  aliases nothing
  void loss_and_gradients(const ResidualStream& in, const Tensor& targets, double scale,
                          Tensor token_loss, Tensor d_stream, ExecutionContext& context) const;

  /// Logits [rows, vocab] of the stream's rows. in.branch is overwritten.
  void logits(const ResidualStream& in, Tensor result, ExecutionContext& context) const;
  /// The same of one row x [1, hidden], in as few kernels as there can be.
  void row_logits(const Tensor& x, Tensor result, ExecutionContext& context) const;

 private:
  RmsNorm norm_;
  Parameter* projection_;
};

}  // namespace polymoe
