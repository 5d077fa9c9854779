// SPDX-License-Identifier: Apache-2.0
#include "moe/router.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/convert/convert.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/row_products.h"
#include "kernels/router/router.h"
#include "kernels/router/router_balance.h"
#include "layers/batch.h"
#include "moe/measured_routing.h"
#include "moe/model_config.h"
#include "moe/routing_statistics.h"
#include "moe/weight_initializer.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/parameters/parameter.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {

namespace {

/// The model's coefficients, each layer's share of them.
RouterLosses coefficients_of(const ModelConfig& config) {
  const auto layers = static_cast<double>(config.moe_layers());
  return {.balance = config.moe.balance_loss / layers, .z = config.moe.z_loss / layers};
}

}  // namespace

Router::Router(ParameterStore& store, const std::string& name, const ModelConfig& config,
               Communicator& world)
    : store_(store),
      name_(name),
      moe_(config.moe),
      coefficients_(coefficients_of(config)),
      world_(world),
      weight_(&store.declare(dense_parameter(name + ".weight", {config.moe.experts, config.hidden},
                                             weight_initializer(config)))) {}

RouterShape Router::shape_of(const BatchLayout& layout) const {
  const bool by_sequence = moe_.balance_scope == BalanceScope::sequence;
  return {.tokens = layout.rows(),
          .experts = moe_.experts,
          .top_k = moe_.top_k,
          .segments = by_sequence ? layout.sequences : 1,
          .segment_tokens = by_sequence ? layout.length : layout.rows(),
          .rule = moe_.router,
          .document_starts = layout.document_starts};
}

RouterLosses Router::scales_of(const BatchLayout& layout) const {
  if (layout.rows() == 0) return {};
  const auto sequences = static_cast<double>(layout.global.sequences);
  const auto micro_batches = static_cast<double>(layout.global.micro_batches);
  if (sequences < 1 || micro_batches < 1) {
    throw InvalidArgument("router: the global batch has " +
                          std::to_string(layout.global.sequences) + " sequences in " +
                          std::to_string(layout.global.micro_batches) +
                          " micro-batches, expected at least 1 of each");
  }
  double segment_weight = 0.0;
  switch (moe_.balance_scope) {
    case BalanceScope::sequence:
      segment_weight = 1.0 / sequences;
      break;
    case BalanceScope::rank:
      segment_weight = 1.0 / micro_batches;
      break;
    case BalanceScope::global:
      segment_weight = static_cast<double>(world_.size()) / micro_batches;
      break;
  }
  const double rows = sequences * static_cast<double>(layout.length);
  return {.balance = coefficients_.balance * segment_weight,
          .z = coefficients_.z / (rows - static_cast<double>(layout.global.padding))};
}

bool Router::sums_counts() const {
  return moe_.balance_scope == BalanceScope::global && coefficients_.balance != 0.0;
}

void Router::make_persistent_state() {
  if (losses_->defined()) return;
  const Device device = store_.device();
  losses_ = OwnedTensor({2}, DType::f64, device);
  counts_ = OwnedTensor({moe_.experts + 1}, DType::i64, device);
  if (moe_.bias_rate != 0.0) bias_ = OwnedTensor({moe_.experts}, DType::f32, device);
}

void Router::choose_for(const BatchLayout& layout, const Tensor& logits, Stream& stream) {
  if (stream.device().type == DeviceType::meta) return;
  if (!chosen_->defined() || chosen_->shape() != logits.shape()) {
    const auto choices =
        measured_choices(moe_.routing, name_, layout.length, moe_.experts, moe_.top_k);
    std::vector<float> values(static_cast<std::size_t>(logits.elements()), 0.0F);
    for (std::int64_t row = 0; row < layout.rows(); ++row) {
      for (std::int64_t j = 0; j < moe_.top_k; ++j) {
        const std::int64_t choice = row % layout.length * moe_.top_k + j;
        const std::int32_t expert = choices[static_cast<std::size_t>(choice)];
        values[static_cast<std::size_t>(row * moe_.experts + expert)] = 1.0F;
      }
    }
    const OwnedTensor exact(logits.shape(), DType::f32, stream.device());
    set_values(std::span<const float>(values), *exact, stream);
    chosen_ = OwnedTensor(logits.shape(), logits.dtype(), stream.device());
    convert(*exact, *chosen_, stream);
    stream.synchronize();  // what was copied from ends here
  }
  copy(*chosen_, logits, stream);
}

void Router::forward(const Tensor& x, const BatchLayout& layout, Saved& saved,
                     ExecutionContext& context) {
  Arena& arena = context.arena;
  const Shape logits_shape{layout.rows(), moe_.experts};
  saved.shape = shape_of(layout);
  const DType dtype = accumulation_dtype(x.dtype());
  saved.state = allocate_router_state(saved.shape, dtype, arena);
  const bool keep_logits = moe_.router.scores == RouterScores::sigmoid && coefficients_.z != 0.0;
  saved.logits = keep_logits ? arena.allocate(logits_shape, dtype) : Tensor();
  const Arena::Scope scope(arena);
  const Tensor logits = keep_logits ? saved.logits : arena.allocate(logits_shape, dtype);
  matmul(x, Transpose::no, weight_->value, Transpose::yes, Write::overwrite, logits,
         context.stream);
  const bool chooses = moe_.routing == Routing::router;
  if (!chooses) choose_for(layout, logits, context.stream);
  const Tensor bias_or_none = chooses ? bias() : Tensor();
  router_forward(saved.shape, logits, bias_or_none, saved.state, arena, context.stream);
}

ExpertChoice Router::choice_of(const RowInput& input, ExecutionContext& context) {
  const Tensor logits =
      context.arena.allocate({1, moe_.experts}, accumulation_dtype(input.x.dtype()));
  const RowProduct product{weight_->value, logits};
  row_products(input, {&product, 1}, context.arena, context.stream);
  return {.logits = logits, .bias = bias(), .top_k = moe_.top_k, .rule = moe_.router};
}

Pending Router::start_backward(const Saved& saved, const Tensor& kept_counts,
                               ExecutionContext& context) {
  make_persistent_state();
  count_slots(saved.state.segment_counts, kept_counts, *counts_, context.stream);
  if (!sums_counts()) return {};
  return world_.start_all_reduce(saved.state.segment_counts, Reduction::sum, context.stream);
}

void Router::backward(const Tensor& x, const Tensor& d_weights, const BatchLayout& layout,
                      const Saved& saved, Pending counts, Write write, Tensor d_x,
                      ExecutionContext& context) {
  Arena& arena = context.arena;
  const Arena::Scope scope(arena);
  const DType dtype = accumulation_dtype(x.dtype());
  const Tensor balance_gradient = arena.allocate({saved.shape.segments, moe_.experts}, dtype);
  const Tensor d_logits = arena.allocate({layout.rows(), moe_.experts}, dtype);
  {
    const Timeline::Scope phase(context.timeline, Phase::exchange);
    counts.wait(context.stream);
  }
  const RouterLosses scales = scales_of(layout);
  router_losses({.counts = saved.state.segment_counts,
                 .probability_sums = saved.state.segment_probability_sums,
                 .log_sum_exp = saved.state.log_sum_exp,
                 .top_k = moe_.top_k,
                 .balance_scale = scales.balance,
                 .z_scale = scales.z},
                *losses_, balance_gradient, context.stream);
  router_backward(saved.shape, saved.logits, saved.state, d_weights, balance_gradient, scales.z,
                  d_logits, context.stream);
  // A product's factors are of one dtype.
  Tensor factor = d_logits;
  if (x.dtype() != dtype) {
    factor = arena.allocate(d_logits.shape(), x.dtype());
    convert(d_logits, factor, context.stream);
  }
  matmul(factor, Transpose::yes, x, Transpose::no, Write::accumulate, weight_->gradient,
         context.stream);
  matmul(factor, Transpose::no, weight_->value, Transpose::no, write, d_x, context.stream);
}

RouterLosses Router::take_losses(Stream& stream) {
  if (!losses_->defined()) return {};
  const std::vector<double> values = host_values<double>(*losses_, stream);
  set_zero(*losses_, stream);
  return {.balance = values[0], .z = values[1]};
}

std::vector<std::int64_t> Router::take_counts(Stream& stream) {
  if (!counts_->defined())
    return std::vector<std::int64_t>(static_cast<std::size_t>(moe_.experts) + 1);
  std::vector<std::int64_t> counts = host_values<std::int64_t>(*counts_, stream);
  set_zero(*counts_, stream);
  return counts;
}

void Router::update_bias(const std::vector<std::int64_t>& global_counts, Stream& stream) {
  const Tensor values = bias();
  if (!values.defined()) return;
  move_router_bias(global_counts, moe_.bias_rate, values, stream);
}

Tensor Router::bias() {
  make_persistent_state();
  return *bias_;
}

}  // namespace polymoe
