// SPDX-License-Identifier: Apache-2.0
#include "moe/experts.h"

#include <utility>

#include "parallel/parameters/parameter.h"

namespace polymoe {
namespace {

/// One tensor per expert, stacked: "NAME.17.up.weight", ...
Parameter stacked(const std::string& name, const std::string& part, const Shape& shape,
                  const Experts::Settings& settings, Initializer initializer, ParameterKind kind) {
  Parameter parameter;
  for (std::int64_t e = settings.first; e < settings.first + settings.count; ++e) {
    parameter.logical.push_back({name + "." + std::to_string(e) + "." + part, shape});
  }
  parameter.shape = shape.rank() == 1 ? Shape{settings.count, shape[0]}
                                      : Shape{settings.count, shape[0], shape[1]};
  parameter.scope = ParameterScope::expert;
  parameter.decay = kind == ParameterKind::weight;
  parameter.wide = kind == ParameterKind::coefficients;
  parameter.initializer = std::move(initializer);
  return parameter;
}

}  // namespace

Experts::Experts(ParameterStore& store, const std::string& name, const Settings& settings)
    : settings_(settings) {
  const std::int64_t columns = pre_activation_factor(settings.activation.kind) * settings.width;
  up_ = &store.declare(stacked(name, "up.weight", {columns, settings.hidden}, settings,
                               settings.initializer, ParameterKind::weight));
  down_ = &store.declare(stacked(name, "down.weight", {settings.hidden, settings.width}, settings,
                                 settings.initializer, ParameterKind::weight));
  const std::int64_t coefficients = coefficient_count(settings.activation);
  if (coefficients == 0) return;
  Initializer initial;
  initial.kind = InitialValues::listed;
  initial.listed = initial_coefficients(settings.activation);
  coefficients_ = &store.declare(settings.coefficients_per_expert
                                     ? stacked(name, "coefficients", {coefficients}, settings,
                                               initial, ParameterKind::coefficients)
                                     : dense_parameter(name + ".coefficients", {coefficients},
                                                       initial, ParameterKind::coefficients));
}

FeedForwardWeights Experts::tensors(Tensor Parameter::*which) const {
  FeedForwardWeights result{up_->*which, down_->*which, {}};
  if (coefficients_ != nullptr) {
    const Tensor& coefficients = coefficients_->*which;
    const std::int64_t sets = settings_.coefficients_per_expert ? settings_.count : 1;
    result.coefficients = coefficients.view({sets, coefficients.elements() / sets});
  }
  return result;
}

Tensor Experts::allocate_pre(std::int64_t rows, DType dtype, Arena& arena) const {
  return arena.allocate({rows, up_->shape[1]}, dtype);
}

void Experts::forward(const Tensor& x, const ExpertOffsets& offsets, const Tensor& row_weights,
                      Tensor pre, Tensor y, const LateRows* late, ExecutionContext& context) const {
  feed_forward_forward(settings_.activation, tensors(&Parameter::value), x, offsets, row_weights,
                       pre, y, context.arena, context.stream, late);
}

void Experts::pre_activations(const Tensor& x, const ExpertOffsets& offsets, Tensor pre,
                              ExecutionContext& context) const {
  feed_forward_pre_activations(settings_.activation, tensors(&Parameter::value), x, offsets, pre,
                               context.stream);
}

Tensor Experts::activated(const Tensor& pre, const ExpertOffsets& offsets,
                          ExecutionContext& context) const {
  const Tensor result = context.arena.allocate({pre.dim(0), settings_.width}, pre.dtype());
  activation_forward(settings_.activation, pre, tensors(&Parameter::value).coefficients, offsets,
                     Tensor(), result, context.stream);
  return result;
}

void Experts::backward(const Tensor& d_y, const Tensor& x, const ExpertOffsets& offsets,
                       const Tensor& row_weights, Tensor pre, Tensor d_x, Tensor d_row_weights,
                       const LateRows* late, ExecutionContext& context) const {
  FeedForwardWeights gradients = tensors(&Parameter::gradient);
  feed_forward_backward(settings_.activation, tensors(&Parameter::value), d_y, x, offsets,
                        row_weights, pre, d_x, d_row_weights, gradients, context.arena,
                        context.stream, late);
}

}  // namespace polymoe
