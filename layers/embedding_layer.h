// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

/// A row of hidden values per token. Declares "embedding.weight" [vocab, hidden].
class EmbeddingLayer {
 public:
  struct Extents {
    std::int64_t vocab = 0;
    std::int64_t hidden = 0;
  };

  EmbeddingLayer(ParameterStore& store, const Extents& extents, const Initializer& initializer);

  /// tokens [rows] i32, y [rows, hidden]; overwrites y.
  void forward(const Tensor& tokens, Tensor y, ExecutionContext& context) const;
  /// Adds to the table's gradient.
  void backward(const Tensor& tokens, const Tensor& d_y, ExecutionContext& context) const;

  /// The table, for an output projection that shares it.
  Parameter& table() const { return *table_; }

 private:
  Parameter* table_;
};

}  // namespace polymoe
