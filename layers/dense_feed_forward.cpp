// SPDX-License-Identifier: Apache-2.0
#include "layers/dense_feed_forward.h"

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/activation/activation.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "layers/batch.h"
#include "layers/feed_forward.h"
#include "layers/feed_forward_parameters.h"
#include "layers/rms_norm.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

struct DenseSaved final : FeedForward::Saved {
  Tensor x;    // [rows, hidden], the caller's
  Tensor pre;  // [rows, factor * width], if they are kept
  ExpertOffsets offsets = {0, 0};
};

FeedForwardParameters declare(ParameterStore& store, const std::string& name,
                              const DenseFeedForward::Extents& extents,
                              const Activation& activation, const Initializer& initializer) {
  const std::int64_t columns = pre_activation_factor(activation.kind) * extents.width;
  const Parameter& up =
      store.declare(dense_parameter(name + ".up.weight", {columns, extents.hidden}, initializer));
  const Parameter& down = store.declare(
      dense_parameter(name + ".down.weight", {extents.hidden, extents.width}, initializer));
  const int count = coefficient_count(activation);
  if (count == 0) return {up, down, nullptr};
  const Parameter& coefficients = store.declare(
      dense_parameter(name + ".coefficients", {count},
                      {.kind = InitialValues::listed, .listed = initial_coefficients(activation)},
                      ParameterKind::coefficients));
  return {up, down, &coefficients};
}

}  // namespace

DenseFeedForward::DenseFeedForward(ParameterStore& store, const std::string& name,
                                   const Extents& extents, const Activation& activation,
                                   const Initializer& initializer)
    : activation_(activation),
      parameters_(declare(store, name, extents, activation, initializer)) {}

std::unique_ptr<FeedForward::Saved> DenseFeedForward::make_saved() const {
  return std::make_unique<DenseSaved>();
}

void DenseFeedForward::forward(const Tensor& x, const BatchLayout&, Saved& saved, Tensor y,
                               ExecutionContext& context) {
  prepare(x, saved, context);
  compute(saved, y, context);
}

void DenseFeedForward::step(const Tensor& x, const RmsNorm& norm, Saved&, Tensor y,
                            ExecutionContext& context) {
  feed_forward_step(activation_, parameters_.values(), norm.of_row(x), x, y, context.arena,
                    context.stream);
}

FeedForward::View DenseFeedForward::view(const Saved& saved, ExecutionContext& context) const {
  const auto& kept = static_cast<const DenseSaved&>(saved);
  View result{.expert_ids = Tensor(), .pre = kept.pre, .activated = Tensor(), .x = kept.x};
  result.activated =
      parameters_.allocate_activated(kept.pre.dim(0), kept.pre.dtype(), context.arena);
  activation_forward(activation_, kept.pre, parameters_.values().coefficients, kept.offsets,
                     Tensor(), result.activated, context.stream);
  return result;
}

void DenseFeedForward::prepare(const Tensor& x, Saved& saved, ExecutionContext& context) const {
  auto& kept = static_cast<DenseSaved&>(saved);
  kept.x = x;
  kept.pre = saved.keep_pre_activations
                 ? parameters_.allocate_pre(x.dim(0), x.dtype(), context.arena)
                 : Tensor();
  kept.offsets[1] = x.dim(0);
}

void DenseFeedForward::compute(Saved& saved, Tensor y, ExecutionContext& context) const {
  auto& kept = static_cast<DenseSaved&>(saved);
  const Arena::Scope scope(context.arena);
  const Tensor pre = kept.pre.defined()
                         ? kept.pre
                         : parameters_.allocate_pre(kept.x.dim(0), kept.x.dtype(), context.arena);
  feed_forward_forward(activation_, parameters_.values(), kept.x, kept.offsets, Tensor(), pre, y,
                       context.arena, context.stream);
}

void DenseFeedForward::backward(const Tensor& d_y, const BatchLayout&, Saved& saved, Tensor d_x,
                                ExecutionContext& context) {
  auto& kept = static_cast<DenseSaved&>(saved);
  FeedForwardWeights d_weights = parameters_.gradients();
  const Arena::Scope scope(context.arena);
  Tensor pre = kept.pre;
  if (!pre.defined()) {
    pre = parameters_.allocate_pre(kept.x.dim(0), kept.x.dtype(), context.arena);
    feed_forward_pre_activations(activation_, parameters_.values(), kept.x, kept.offsets, pre,
                                 context.stream);
  }
  feed_forward_backward(activation_, parameters_.values(), d_y, kept.x, kept.offsets, Tensor(), pre,
                        d_x, Tensor(), d_weights, context.arena, context.stream);
}

}  // namespace polymoe
