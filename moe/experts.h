// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "layers/feed_forward_parameters.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

/// This rank's experts of one MoE layer: their parameters and the grouped feed-forward.
class Experts {
 public:
  struct Settings {
    std::int64_t hidden = 0;
    std::int64_t width = 0;
    std::int64_t first = 0;  // global id of this rank's first expert
    std::int64_t count = 0;  // of this rank
    Activation activation;
    bool coefficients_per_expert = false;
    Initializer initializer;
  };

  /// Declares "NAME.E.up.weight" [factor * width, hidden] (of swiglu: gate rows, then up rows) and
  /// "NAME.E.down.weight" [hidden, width] with global ids E, and where the activation has them
  /// "NAME.E.coefficients" [n] per expert, or "NAME.coefficients" [n] of the whole layer, whose
  /// gradient is summed over the world. Weight decay leaves coefficients alone.
  Experts(ParameterStore& store, const std::string& name, const Settings& settings);

  /// The pre-activations of `rows` rows, which backward needs.
  Tensor allocate_pre(std::int64_t rows, DType dtype, Arena& arena) const;

  /// See kernels/feed_forward/feed_forward.h: rows contiguous per expert.
  void forward(const Tensor& x, const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
               Tensor y, const LateRows* late, ExecutionContext& context) const;
  /// y = residual + what the experts chosen for one token make of it, see
  /// kernels/feed_forward/feed_forward_step.h.
  void step(const RowInput& input, const ExpertChoice& choice, const Tensor& residual, Tensor y,
            ExecutionContext& context) const;
  /// `pre` alone, in the bits of forward.
  void pre_activations(const Tensor& x, const ExpertOffsets& offsets, Tensor pre,
                       ExecutionContext& context) const;
  /// The activation of `pre`, [rows, width] in the arena.
  Tensor activated(const Tensor& pre, const ExpertOffsets& offsets,
                   ExecutionContext& context) const;
  /// Overwrites d_x and d_row_weights, adds to the parameters' gradients, destroys `pre`.
  void backward(const Tensor& d_y, const Tensor& x, const ExpertOffsets& offsets,
                const Tensor& row_weights, Tensor pre, Tensor d_x, Tensor d_row_weights,
                const LateRows* late, ExecutionContext& context) const;

 private:
  Activation activation_;
  FeedForwardParameters parameters_;
};

}  // namespace polymoe
