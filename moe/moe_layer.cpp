// SPDX-License-Identifier: Apache-2.0
#include "moe/moe_layer.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/matmul/row_products.h"
#include "kernels/reduction/reduction.h"
#include "kernels/router/router.h"
#include "layers/batch.h"
#include "layers/dense_feed_forward.h"
#include "layers/feed_forward.h"
#include "layers/rms_norm.h"
#include "moe/exchange_plan.h"
#include "moe/exchange_traffic.h"
#include "moe/experts.h"
#include "moe/measured_routing.h"
#include "moe/model_config.h"
#include "moe/router.h"
#include "moe/routing_statistics.h"
#include "moe/token_exchange.h"
#include "moe/weight_initializer.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

struct MoeSaved final : FeedForward::Saved {
  Tensor x;  // [rows, hidden], the caller's
  Router::Saved routing;
  ExchangePlan plan;
  Tensor arrived;  // [arriving, hidden]: rows of other ranks' tokens
  Tensor pre;      // [received, factor * width], if they are kept: of rows worked off at once
  std::unique_ptr<Saved> shared;
};

Experts::Settings experts_settings(const ModelConfig& config, const ProcessMesh& mesh) {
  const std::int64_t experts = config.moe.experts;
  if (experts % mesh.expert_parallel() != 0) {
    throw InvalidArgument(
        "moe.experts = " + std::to_string(experts) +
        " is not a multiple of parallel.expert = " + std::to_string(mesh.expert_parallel()));
  }
  return {.hidden = config.hidden,
          .width = config.expert_width(),
          .first = mesh.first_expert(experts),
          .count = experts / mesh.expert_parallel(),
          .activation = config.activation,
          .coefficients_per_expert = config.moe.coefficients_per_expert,
          .initializer = weight_initializer(config)};
}

Tensor flat(const Tensor& tensor) { return tensor.view({tensor.elements()}); }

/// [rows] the weights of a round's rows.
Tensor weights_of(const ExchangePlan& plan, const ExpertRound& round) {
  return flat(plan.row_weights.rows(round.first_row, round.first_row + round.rows()));
}

}  // namespace

struct MoeLayer::Impl {
  Impl(const ModelConfig& config, std::int64_t layer, const ProcessMesh& mesh,
       ParameterStore& store)
      : name("layers." + std::to_string(layer)),
        moe(config.moe),
        hidden(config.hidden),
        experts(experts_settings(config, mesh)),
        router(store, name + ".router", config, mesh.world()),
        exchange(mesh.expert_groups(), config.moe.experts, config.moe.row_budget, layer),
        routed(store, name + ".experts", experts) {
    if (config.moe.shared_experts > 0) {
      shared.emplace(
          store, name + ".shared",
          DenseFeedForward::Extents{.hidden = config.hidden, .width = config.shared_width()},
          config.activation, weight_initializer(config));
    }
  }

  /// Every sequence has this, whatever the layout: what is dropped depends on the data alone.
  ExpertCapacity capacity_of(const BatchLayout& layout) const {
    if (moe.capacity_factor == 0.0) return {};
    const double slots = moe.capacity_factor * static_cast<double>(layout.length * moe.top_k) /
                         static_cast<double>(moe.experts);
    // Less a few roundings: 1.1 times 10 is 11 slots, although it is a little more in binary.
    return {.slots = static_cast<std::int64_t>(std::ceil(slots * (1.0 - 0x1p-50))),
            .segment_tokens = layout.length,
            .policy = moe.drop};
  }

  bool chooses_on_device() const;

  std::string name;
  MoeConfig moe;
  std::int64_t hidden;
  Experts::Settings experts;
  Router router;
  TokenExchange exchange;
  Experts routed;
  std::optional<DenseFeedForward> shared;
  std::int64_t extra_rounds = 0;
  ExchangeTraffic traffic;
};

MoeLayer::MoeLayer(const ModelConfig& config, std::int64_t layer, const ProcessMesh& mesh,
                   ParameterStore& store)
    : impl_(std::make_unique<Impl>(config, layer, mesh, store)) {}

MoeLayer::~MoeLayer() = default;

std::unique_ptr<FeedForward::Saved> MoeLayer::make_saved() const {
  auto saved = std::make_unique<MoeSaved>();
  if (impl_->shared) saved->shared = impl_->shared->make_saved();
  return saved;
}

void MoeLayer::forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
                       ExecutionContext& context) {
  Impl& layer = *impl_;
  auto& kept = static_cast<MoeSaved&>(saved);
  Arena& arena = context.arena;
  const DType dtype = x.dtype();
  const Shape rows_shape{layout.rows(), layer.hidden};
  check_tensors("MoE layer forward", context.stream.device(),
                {{"x", x, rows_shape, dtype}, {"y", y, rows_shape, dtype}});
  kept.x = x;
  layer.router.forward(x, layout, kept.routing, context);
  const RouterState& routing = kept.routing.state;
  ExchangePlan& plan = kept.plan;
  layer.exchange.begin_plan(routing.expert_ids, routing.weights, layer.capacity_of(layout), plan,
                            context);
  // What the experts read are copies of x's rows and of these: to make them again costs less than
  // the memory to keep them.
  kept.arrived = arena.allocate({plan.arriving(), layer.hidden}, dtype);
  kept.pre = kept.keep_pre_activations && plan.at_once
                 ? layer.routed.allocate_pre(plan.received, dtype, arena)
                 : Tensor();
  if (layer.shared) {
    kept.shared->keep_pre_activations = kept.keep_pre_activations;
    layer.shared->prepare(x, *kept.shared, context);
  }

  const Arena::Scope scope(arena);
  TokenExchange& exchange = layer.exchange;
  auto home = exchange.allocate_home(plan, layer.hidden, false, dtype, arena);
  const Shape most{plan.round_rows, layer.hidden};
  const Tensor read = arena.allocate(most, dtype), made = arena.allocate(most, dtype);
  auto ids = exchange.send_ids(plan, context);
  auto arriving = exchange.start_dispatch(plan, x, kept.arrived, context);
  if (layer.shared) layer.shared->compute(*kept.shared, y, context);
  exchange.finish_plan(plan, ids, context);
  for (const ExpertRound& round : plan.rounds) {
    const Arena::Scope temporary(arena);
    const Tensor expert_x = read.rows(0, round.rows()), expert_y = made.rows(0, round.rows());
    const Tensor pre =
        kept.pre.defined() ? kept.pre : layer.routed.allocate_pre(round.rows(), dtype, arena);
    const auto arrive = [&] {
      exchange.wait(arriving, context);
      exchange.scatter_arrived(plan, round, kept.arrived, expert_x, context);
    };
    const auto leave = [&] {
      exchange.sum_arrived(plan, round, expert_y, home, context);
      if (round.end == plan.sources()) exchange.send_home(plan, home, context);
    };
    const LateRows late{.early = round.early, .arrive = arrive, .leave = leave};
    exchange.scatter_own(plan, round, x, expert_x, context);
    layer.routed.forward(expert_x, round.offsets, weights_of(plan, round), pre, expert_y, &late,
                         context);
    exchange.sum_own(plan, round, expert_y, home, context);
  }
  exchange.finish_home(plan, home, layer.shared ? Write::accumulate : Write::overwrite, y, context);
}

/// Choices that are given, for measurements, are copied from memory that a training step replaces.
bool MoeLayer::Impl::chooses_on_device() const {
  return !exchange.sends() && moe.capacity_factor == 0.0 && moe.routing == Routing::router;
}

void MoeLayer::step(const Tensor& x, const RmsNorm& norm, Saved& saved, Tensor y,
                    ExecutionContext& context) {
  Impl& layer = *impl_;
  auto& kept = static_cast<MoeSaved&>(saved);
  const Shape row{1, layer.hidden};
  check_tensors("MoE layer step", context.stream.device(),
                {{"x", x, row, x.dtype()}, {"y", y, row, x.dtype()}});
  const Arena::Scope scope(context.arena);
  if (!layer.chooses_on_device()) {
    const BatchLayout layout{
        .sequences = 1, .length = 1, .global = {.tokens = 1, .sequences = 1, .micro_batches = 1}};
    const Tensor normed = context.arena.allocate(row, x.dtype());
    const Tensor inv_rms = context.arena.allocate({1}, accumulation_dtype(x.dtype()));
    norm.forward(x, normed, inv_rms, context);
    forward(normed, layout, saved, y, context);
    add(x, y, context.stream);
    return;
  }
  const RowInput input = norm.of_row(x);
  const ExpertChoice choice = layer.router.choice_of(input, context);
  if (layer.shared) layer.shared->step(x, norm, *kept.shared, y, context);
  layer.routed.step(input, choice, layer.shared ? y : x, y, context);
}

bool MoeLayer::step_is_recordable() const { return impl_->chooses_on_device(); }

FeedForward::View MoeLayer::view(const Saved& saved, ExecutionContext& context) const {
  const auto& kept = static_cast<const MoeSaved&>(saved);
  if (!kept.plan.at_once) {
    throw InvalidArgument("moe.row_budget = " + std::to_string(impl_->moe.row_budget) +
                          ": a rank's experts had more rows, of which no pre-activations are kept; "
                          "a larger one lets them be looked at");
  }
  return {.expert_ids = kept.routing.state.expert_ids,
          .pre = kept.pre,
          .activated = impl_->routed.activated(kept.pre, kept.plan.rounds[0].offsets, context),
          .x = kept.x};
}

void MoeLayer::apply_expert(std::int64_t expert, const Tensor& x, Tensor y,
                            ExecutionContext& context) const {
  const Experts::Settings& own = impl_->experts;
  if (expert < own.first || expert >= own.first + own.count)
    throw InvalidArgument("expert " + std::to_string(expert) + ": this rank has " +
                          std::to_string(own.first) + " to " +
                          std::to_string(own.first + own.count - 1));
  ExpertOffsets offsets(static_cast<std::size_t>(own.count) + 1, 0);
  for (auto e = static_cast<std::size_t>(expert - own.first) + 1; e < offsets.size(); ++e)
    offsets[e] = x.dim(0);
  const Arena::Scope scope(context.arena);
  const Tensor pre = impl_->routed.allocate_pre(x.dim(0), x.dtype(), context.arena);
  impl_->routed.forward(x, offsets, Tensor(), pre, y, nullptr, context);
}

void MoeLayer::backward(const Tensor& d_y, const BatchLayout& layout, Saved& saved, Tensor d_x,
                        ExecutionContext& context) {
  Impl& layer = *impl_;
  auto& kept = static_cast<MoeSaved&>(saved);
  const ExchangePlan& plan = kept.plan;
  Arena& arena = context.arena;
  const DType dtype = d_y.dtype();
  const Shape rows_shape{layout.rows(), layer.hidden};
  check_tensors("MoE layer backward", context.stream.device(),
                {{"x", kept.x, rows_shape, dtype},
                 {"d_y", d_y, rows_shape, dtype},
                 {"d_x", d_x, rows_shape, dtype}});
  layer.extra_rounds += static_cast<std::int64_t>(plan.rounds.size()) - 1;
  ++layer.traffic.passes;
  layer.traffic.leaving_rows += plan.leaving();
  layer.traffic.leaving_slots += plan.leaving_slot_count;
  layer.traffic.expert_rows += plan.received;
  Pending counts = layer.router.start_backward(kept.routing, plan.counts, context);

  const Arena::Scope scope(arena);
  const DType wide = plan.row_weights.dtype();
  TokenExchange& exchange = layer.exchange;
  const Tensor d_weights = arena.allocate({layout.rows(), plan.top_k}, wide);
  auto weights_home = exchange.allocate_home(plan, plan.top_k, true, wide, arena);
  auto home = exchange.allocate_home(plan, layer.hidden, false, dtype, arena);
  const Tensor arrived = arena.allocate({plan.arriving(), layer.hidden}, dtype);
  auto arriving = exchange.start_dispatch(plan, d_y, arrived, context);
  if (layer.shared) layer.shared->backward(d_y, layout, *kept.shared, d_x, context);
  const Shape most{plan.round_rows, layer.hidden};
  const Tensor read = arena.allocate(most, dtype), gradient = arena.allocate(most, dtype);
  const Tensor made = arena.allocate(most, dtype),
               weights_made = arena.allocate({most[0], 1}, wide);
  for (const ExpertRound& round : plan.rounds) {
    const Arena::Scope temporary(arena);
    const Tensor expert_x = read.rows(0, round.rows()), d_expert_y = gradient.rows(0, round.rows());
    const Tensor d_expert_x = made.rows(0, round.rows());
    const Tensor d_row_weights = weights_made.rows(0, round.rows());
    exchange.scatter_own(plan, round, kept.x, expert_x, context);
    exchange.scatter_arrived(plan, round, kept.arrived, expert_x, context);
    Tensor pre = kept.pre;
    if (!pre.defined()) {
      pre = layer.routed.allocate_pre(round.rows(), dtype, arena);
      layer.routed.pre_activations(expert_x, round.offsets, pre, context);
    }
    const auto arrive = [&] {
      exchange.wait(arriving, context);
      exchange.scatter_arrived(plan, round, arrived, d_expert_y, context);
    };
    const auto leave = [&] {
      exchange.sum_arrived(plan, round, d_row_weights, weights_home, context);
      exchange.sum_arrived(plan, round, d_expert_x, home, context);
      if (round.end != plan.sources()) return;
      // The weights' gradients first: the router's backward pass hides the rows' way.
      exchange.send_home(plan, weights_home, context);
      exchange.send_home(plan, home, context);
    };
    const LateRows late{.early = round.early, .arrive = arrive, .leave = leave};
    exchange.scatter_own(plan, round, d_y, d_expert_y, context);
    layer.routed.backward(d_expert_y, expert_x, round.offsets, weights_of(plan, round), pre,
                          d_expert_x, flat(d_row_weights), &late, context);
    exchange.sum_own(plan, round, d_row_weights, weights_home, context);
    exchange.sum_own(plan, round, d_expert_x, home, context);
  }
  exchange.finish_home(plan, weights_home, Write::overwrite, d_weights, context);
  layer.router.backward(kept.x, d_weights, layout, kept.routing, std::move(counts),
                        layer.shared ? Write::accumulate : Write::overwrite, d_x, context);
  exchange.finish_home(plan, home, Write::accumulate, d_x, context);
}

RouterLosses MoeLayer::take_losses(Stream& stream) { return impl_->router.take_losses(stream); }

std::vector<std::int64_t> MoeLayer::take_counts(Stream& stream) {
  return impl_->router.take_counts(stream);
}

std::int64_t MoeLayer::take_extra_rounds() { return std::exchange(impl_->extra_rounds, 0); }

ExchangeTraffic MoeLayer::take_traffic() { return std::exchange(impl_->traffic, {}); }

void MoeLayer::update_bias(const std::vector<std::int64_t>& global_counts, Stream& stream) {
  impl_->router.update_bias(global_counts, stream);
}

Tensor MoeLayer::bias() const { return impl_->router.bias(); }

}  // namespace polymoe
