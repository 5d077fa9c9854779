// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "layers/batch.h"
#include "layers/rms_norm.h"
#include "runtime/context.h"

namespace polymoe {

/// The feed-forward part of a transformer block, dense or mixture-of-experts.
class FeedForward {
 public:
  /// What backward needs from forward. Made once, owned by the caller, filled anew by each forward
  /// with tensors of the arena.
  class Saved {
   public:
    virtual ~Saved() = default;

    /// Whether forward keeps the pre-activations, a large part. Otherwise backward forms
    /// them again by one more product. Set before forward, for it and its backward.
    bool keep_pre_activations = true;
  };

  virtual ~FeedForward() = default;
  virtual std::unique_ptr<Saved> make_saved() const = 0;

  /// y = f(x); overwrites y. x is kept by reference: it must live until backward. Running it twice
  /// on the same x gives the same y and has no other effect, so that a block can be recomputed.
  ///
  /// x, y [rows, hidden]
  virtual void forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
                       ExecutionContext& context) = 0;

  /// y = x + f(norm(x)) of one row, of which nothing is kept: a step of generation. `saved` is
  /// scratch. May round otherwise than forward.
  ///
  /// x, y [1, hidden]; y may not alias x
  virtual void step(const Tensor& x, const RmsNorm& norm, Saved& saved, Tensor y,
                    ExecutionContext& context) = 0;
  /// Whether a step submits the same work each time and waits for nothing, so that it can be
  /// recorded (runtime/recorded_work.h).
  virtual bool step_is_recordable() const = 0;

  /// What a forward pass shows to who looks inside a model.
  struct View {
    Tensor expert_ids;  // [rows, top_k] i32; undefined where there are no experts
    Tensor pre;         // [rows that arrived, factor * width], of the routed experts
    Tensor activated;   // [rows that arrived, width], in the arena
    Tensor x;           // [rows, hidden] what it read
  };
  /// Views a forward pass that kept its pre-activations, before anything else runs in its memory.
  virtual View view(const Saved& saved, ExecutionContext& context) const = 0;

  /// Overwrites d_x, adds to the parameters' gradients. d_x may not alias d_y.
  virtual void backward(const Tensor& d_y, const BatchLayout& layout, Saved& saved, Tensor d_x,
                        ExecutionContext& context) = 0;
};

}  // namespace polymoe
