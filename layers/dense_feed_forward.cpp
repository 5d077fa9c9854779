// SPDX-License-Identifier: Apache-2.0
#include "layers/dense_feed_forward.h"

#include "parallel/parameters/parameter.h"

namespace polymoe {
namespace {

struct DenseSaved final : FeedForward::Saved {
  Tensor x;    // [rows, hidden], the caller's
  Tensor pre;  // [rows, factor * width], if they are kept
  ExpertOffsets offsets = {0, 0};
};

/// The kernel's view of one dense feed-forward: a group of one expert.
Tensor as_one_expert(const Tensor& matrix) {
  return matrix.view({1, matrix.dim(0), matrix.dim(1)});
}

}  // namespace

DenseFeedForward::DenseFeedForward(ParameterStore& store, const std::string& name,
                                   const Extents& extents, const Activation& activation,
                                   const Initializer& initializer)
    : extents_(extents),
      activation_(activation),
      up_(&store.declare(dense_parameter(
          name + ".up.weight",
          {pre_activation_factor(activation.kind) * extents.width, extents.hidden}, initializer))),
      down_(&store.declare(
          dense_parameter(name + ".down.weight", {extents.hidden, extents.width}, initializer))) {
  const int coefficients = coefficient_count(activation);
  if (coefficients > 0) {
    coefficients_ = &store.declare(
        dense_parameter(name + ".coefficients", {coefficients},
                        {.kind = InitialValues::listed, .listed = initial_coefficients(activation)},
                        ParameterKind::coefficients));
  }
}

FeedForwardWeights DenseFeedForward::weights() const {
  FeedForwardWeights result{as_one_expert(up_->value), as_one_expert(down_->value), {}};
  if (coefficients_ != nullptr) {
    result.coefficients = coefficients_->value.view({1, coefficients_->shape[0]});
  }
  return result;
}

FeedForwardWeights DenseFeedForward::gradients() const {
  FeedForwardWeights result{as_one_expert(up_->gradient), as_one_expert(down_->gradient), {}};
  if (coefficients_ != nullptr) {
    result.coefficients = coefficients_->gradient.view({1, coefficients_->shape[0]});
  }
  return result;
}

Tensor DenseFeedForward::allocate_pre(const Tensor& x, Arena& arena) const {
  return arena.allocate({x.dim(0), up_->shape[0]}, x.dtype());
}

std::unique_ptr<FeedForward::Saved> DenseFeedForward::make_saved() const {
  return std::make_unique<DenseSaved>();
}

void DenseFeedForward::forward(const Tensor& x, const BatchLayout&, Saved& saved, Tensor y,
                               ExecutionContext& context) {
  prepare(x, saved, context);
  compute(saved, y, context);
}

FeedForward::View DenseFeedForward::view(const Saved& saved, ExecutionContext& context) const {
  const auto& kept = static_cast<const DenseSaved&>(saved);
  View result{.expert_ids = Tensor(), .pre = kept.pre, .activated = Tensor()};
  result.activated = context.arena.allocate({kept.pre.dim(0), down_->shape[1]}, kept.pre.dtype());
  activation_forward(activation_, kept.pre, weights().coefficients, kept.offsets, Tensor(),
                     result.activated, context.stream);
  return result;
}

void DenseFeedForward::prepare(const Tensor& x, Saved& saved, ExecutionContext& context) const {
  auto& kept = static_cast<DenseSaved&>(saved);
  kept.x = x;
  kept.pre = saved.keep_pre_activations ? allocate_pre(x, context.arena) : Tensor();
  kept.offsets[1] = x.dim(0);
}

void DenseFeedForward::compute(Saved& saved, Tensor y, ExecutionContext& context) const {
  auto& kept = static_cast<DenseSaved&>(saved);
  const Arena::Scope scope(context.arena);
  const Tensor pre = kept.pre.defined() ? kept.pre : allocate_pre(kept.x, context.arena);
  feed_forward_forward(activation_, weights(), kept.x, kept.offsets, Tensor(), pre, y,
                       context.arena, context.stream);
}

void DenseFeedForward::backward(const Tensor& d_y, const BatchLayout&, Saved& saved, Tensor d_x,
                                ExecutionContext& context) {
  auto& kept = static_cast<DenseSaved&>(saved);
  FeedForwardWeights d_weights = gradients();
  const Arena::Scope scope(context.arena);
  Tensor pre = kept.pre;
  if (!pre.defined()) {
    pre = allocate_pre(kept.x, context.arena);
    feed_forward_pre_activations(activation_, weights(), kept.x, kept.offsets, pre, context.stream);
  }
  feed_forward_backward(activation_, weights(), d_y, kept.x, kept.offsets, Tensor(), pre, d_x,
                        Tensor(), d_weights, context.arena, context.stream);
}

}  // namespace polymoe
