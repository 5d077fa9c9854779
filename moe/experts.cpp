// SPDX-License-Identifier: Apache-2.0
#include "moe/experts.h"

#include <cstdint>
#include <string>
#include <utility>

#include "kernels/activation/activation.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/matmul/row_products.h"
#include "layers/feed_forward_parameters.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

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

FeedForwardParameters declare(ParameterStore& store, const std::string& name,
                              const Experts::Settings& settings) {
  const std::int64_t columns = pre_activation_factor(settings.activation.kind) * settings.width;
  const Parameter& up =
      store.declare(stacked(name, "up.weight", {columns, settings.hidden}, settings,
                            settings.initializer, ParameterKind::weight));
  const Parameter& down =
      store.declare(stacked(name, "down.weight", {settings.hidden, settings.width}, settings,
                            settings.initializer, ParameterKind::weight));
  const std::int64_t count = coefficient_count(settings.activation);
  if (count == 0) return {up, down, nullptr};
  Initializer initial;
  initial.kind = InitialValues::listed;
  initial.listed = initial_coefficients(settings.activation);
  const Parameter& coefficients = store.declare(
      settings.coefficients_per_expert
          ? stacked(name, "coefficients", {count}, settings, initial, ParameterKind::coefficients)
          : dense_parameter(name + ".coefficients", {count}, initial, ParameterKind::coefficients));
  return {up, down, &coefficients};
}

}  // namespace

Experts::Experts(ParameterStore& store, const std::string& name, const Settings& settings)
    : activation_(settings.activation), parameters_(declare(store, name, settings)) {}

Tensor Experts::allocate_pre(std::int64_t rows, DType dtype, Arena& arena) const {
  return parameters_.allocate_pre(rows, dtype, arena);
}

void Experts::forward(const Tensor& x, const ExpertOffsets& offsets, const Tensor& row_weights,
                      Tensor pre, Tensor y, const LateRows* late, ExecutionContext& context) const {
  feed_forward_forward(activation_, parameters_.values(), x, offsets, row_weights, pre, y,
                       context.arena, context.stream, late);
}

void Experts::step(const RowInput& input, const ExpertChoice& choice, const Tensor& residual,
                   Tensor y, ExecutionContext& context) const {
  chosen_experts_step(activation_, parameters_.values(), input, choice, residual, y, context.arena,
                      context.stream);
}

void Experts::pre_activations(const Tensor& x, const ExpertOffsets& offsets, Tensor pre,
                              ExecutionContext& context) const {
  feed_forward_pre_activations(activation_, parameters_.values(), x, offsets, pre, context.stream);
}

Tensor Experts::activated(const Tensor& pre, const ExpertOffsets& offsets,
                          ExecutionContext& context) const {
  const Tensor result = parameters_.allocate_activated(pre.dim(0), pre.dtype(), context.arena);
  activation_forward(activation_, pre, parameters_.values().coefficients, offsets, Tensor(), result,
                     context.stream);
  return result;
}

void Experts::backward(const Tensor& d_y, const Tensor& x, const ExpertOffsets& offsets,
                       const Tensor& row_weights, Tensor pre, Tensor d_x, Tensor d_row_weights,
                       const LateRows* late, ExecutionContext& context) const {
  FeedForwardWeights gradients = parameters_.gradients();
  feed_forward_backward(activation_, parameters_.values(), d_y, x, offsets, row_weights, pre, d_x,
                        d_row_weights, gradients, context.arena, context.stream, late);
}

}  // namespace polymoe
