// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/feed_forward/feed_forward.h"
#include "parallel/parameters/parameter.h"
#include "runtime/arena.h"

namespace polymoe {

/// The parameters of one feed-forward, or of several of one width side by side, as the kernels take
/// them: a leading dimension of experts, and of sets of coefficients.
///
/// up [factor * width, hidden] or [experts, ...] (of swiglu: gate rows, then up rows); down
/// [hidden, width] likewise; coefficients [n] or [experts, n], null where the activation has none.
/// The store that declared them owns them.
class FeedForwardParameters {
 public:
  FeedForwardParameters(const Parameter& up, const Parameter& down, const Parameter* coefficients);

  FeedForwardWeights values() const { return tensors(&Parameter::value); }
  FeedForwardWeights gradients() const { return tensors(&Parameter::gradient); }

  std::int64_t width() const { return width_; }
  /// The pre-activations of `rows` rows, [rows, factor * width].
  Tensor allocate_pre(std::int64_t rows, DType dtype, Arena& arena) const;
  /// The activated ones, [rows, width].
  Tensor allocate_activated(std::int64_t rows, DType dtype, Arena& arena) const;

 private:
  FeedForwardWeights tensors(Tensor Parameter::*which) const;

  const Parameter* up_;
  const Parameter* down_;
  const Parameter* coefficients_;
  std::int64_t pre_width_, width_;
};

}  // namespace polymoe
