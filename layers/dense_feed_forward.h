// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/feed_forward/feed_forward.h"
#include "layers/feed_forward.h"
#include "layers/feed_forward_parameters.h"
#include "parallel/parameters/parameter_store.h"

namespace polymoe {

/// y = down activation(up x). Declares "NAME.up.weight" [factor * width, hidden] (of swiglu: gate
/// rows, then up rows), "NAME.down.weight" [hidden, width] and, where the activation has them,
/// "NAME.coefficients" [n], which weight decay leaves alone.
class DenseFeedForward final : public FeedForward {
 public:
  struct Extents {
    std::int64_t hidden = 0;
    std::int64_t width = 0;
  };

  DenseFeedForward(ParameterStore& store, const std::string& name, const Extents& extents,
                   const Activation& activation, const Initializer& initializer);

  std::unique_ptr<Saved> make_saved() const override;
  void forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
               ExecutionContext& context) override;
  void step(const Tensor& x, const RmsNorm& norm, Saved& saved, Tensor y,
            ExecutionContext& context) override;
  bool step_is_recordable() const override { return true; }
  View view(const Saved& saved, ExecutionContext& context) const override;
  void backward(const Tensor& d_y, const BatchLayout& layout, Saved& saved, Tensor d_x,
                ExecutionContext& context) override;

  /// The two parts of forward, for a caller that gives back other memory after the second: what is
  /// kept for the backward pass is taken from the arena by the first, all of it.
  void prepare(const Tensor& x, Saved& saved, ExecutionContext& context) const;
  void compute(Saved& saved, Tensor y, ExecutionContext& context) const;

 private:
  Activation activation_;
  FeedForwardParameters parameters_;
};

}  // namespace polymoe
