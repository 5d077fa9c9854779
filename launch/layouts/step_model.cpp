// SPDX-License-Identifier: Apache-2.0
#include "launch/layouts/step_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/check.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/layouts/measured_step.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/machine_rates.h"
#include "launch/step/memory_plan.h"
#include "moe/language_model.h"
#include "moe/model_config.h"
#include "moe/model_size.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

/// Layers with experts.
std::int64_t moe_layers(const ModelConfig& model) {
  std::int64_t count = 0;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) count += model.is_moe_layer(layer);
  return count;
}

/// What `train.recompute = activation` does once more in the feed-forwards, per token.
double pre_activation_flops(const ModelConfig& model) {
  double weights = 0.0;
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    weights += static_cast<double>(model.is_moe_layer(layer)
                                       ? (model.moe.top_k + model.moe.shared_experts) *
                                             model.expert_width()
                                       : model.dense_width());
  return 2.0 * static_cast<double>(model.hidden * pre_activation_factor(model.activation.kind)) *
         weights;
}

/// Other ranks of the group that some of a token's experts are on, where each set of them is as
/// likely as any other.
double other_ranks_of_token(const ModelConfig& model, int group) {
  const auto experts = model.moe.experts, here = experts / group;
  double none = 1.0;  // of its experts is on a certain rank
  for (std::int64_t i = 0; i < model.moe.top_k; ++i)
    none *=
        std::max(static_cast<double>(experts - here - i), 0.0) / static_cast<double>(experts - i);
  return static_cast<double>(group - 1) * (1.0 - none);
}

bool same_model(const Config& a, const Config& b) {
  return training_flops_per_token(a.model) == training_flops_per_token(b.model) &&
         a.model.moe.experts == b.model.moe.experts && a.model.context == b.model.context;
}

}  // namespace

/// What a rank does in a step.
struct StepModel::Work {
  double tokens = 0.0;
  double passes = 0.0;
  double forward = 0.0;    // operations
  double again = 0.0;      // of the forward pass, recomputed in the backward pass
  double gradients = 0.0;  // bytes that a pass adds to
  double moves = 0.0;      // rows of (token, expert) pairs, there and back
  double sent = 0.0;       // bytes of rows, to other ranks
  double transfers = 0.0;
  double reduced = 0.0;   // bytes of gradients that are sent
  double gathered = 0.0;  // bytes of values that are sent
  double updated = 0.0;   // bytes that the optimizer reads and writes
  double segments = 0.0;  // in which gradients and values travel
};

/// Seconds for one unit of work.
struct StepModel::Rates {
  double forward = 0.0, backward = 0.0;  // an operation of the forward pass, and what it takes back
  double gradients = 0.0;                // a byte
  double moves = 0.0, updated = 0.0;
  double other = 0.0;  // a token
};

StepModel::StepModel(std::vector<MeasuredStep> measured, const LinkRates& link_between_nodes)
    : measured_(std::move(measured)), between_nodes_(link_between_nodes) {
  if (measured_.empty()) throw InvalidArgument("--rates: no measured step");
  for (const MeasuredStep& step : measured_)
    if (step.on_gpu != on_gpu())
      throw InvalidArgument("--rates: " + measured_.front().file + " and " + step.file +
                            ": one is of CPUs, the other of GPUs");
}

const MeasuredStep& StepModel::nearest(int ranks) const {
  return *std::min_element(measured_.begin(), measured_.end(), [&](const auto& a, const auto& b) {
    const auto distance = [&](const MeasuredStep& step) {
      return std::abs(std::log(static_cast<double>(step.ranks) / ranks));
    };
    return distance(a) < distance(b);
  });
}

LinkRates StepModel::link_of(int ranks, int ranks_per_node) const {
  if (ranks > ranks_per_node && between_nodes_.known()) return between_nodes_;
  const MeasuredStep* best = nullptr;
  for (const MeasuredStep& step : measured_)
    if (step.link.known() &&
        (best == nullptr || std::abs(step.ranks - ranks) < std::abs(best->ranks - ranks)))
      best = &step;
  if (best == nullptr) {
    if (between_nodes_.known()) return between_nodes_;
    throw InvalidArgument(
        "--rates: of one rank, which has no link: give a file of two ranks besides, or --link");
  }
  LinkRates link = best->link;
  if (!on_gpu()) {
    const double share = static_cast<double>(best->ranks) / std::min(ranks, ranks_per_node);
    link.all_to_all *= share;
    link.reduce_scatter *= share;
    link.all_gather *= share;
    link.latency /= std::min(share, 1.0);
  }
  return link;
}

StepModel::Work StepModel::work_of(const EstimatedLayout& layout) const {
  const Config& config = layout.config;
  const ModelConfig& model = config.model;
  const StepShares shares = shares_of(config, layout.ranks);
  const int group = config.parallel.expert, replicas = layout.ranks / group;
  const DType dtype =
      compute_dtype(config.train.precision, on_gpu() ? DeviceType::cuda : DeviceType::cpu);
  const auto value = static_cast<double>(size_of(dtype));
  const auto wide = static_cast<double>(size_of(accumulation_dtype(dtype)));
  const bool block = config.train.recompute == Recompute::block;

  Work work;
  work.passes = static_cast<double>(shares.passes);
  work.tokens = static_cast<double>(config.train.global_batch * model.context) / layout.ranks;
  // The fullest rank sets the pace of uneven shares.
  if (!shares.even())
    work.tokens = work.passes * static_cast<double>(shares.largest() * model.context);
  const double forward = training_flops_per_token(model) / 3.0;
  work.forward = forward * work.tokens;
  if (block) work.again = work.forward;
  if (config.train.recompute == Recompute::activation)
    work.again = pre_activation_flops(model) * work.tokens;
  work.gradients = static_cast<double>(layout.plan.gradients);

  const double layers = static_cast<double>(moe_layers(model));
  const double times = block ? 6.0 : 4.0;  // dispatch and combine, forward and backward
  if (layers > 0.0) {
    work.moves = times * layers * work.tokens * static_cast<double>(model.moe.top_k);
    if (group > 1) {
      const double rows = layers * work.tokens * other_ranks_of_token(model, group);
      work.sent = rows * (times * value * static_cast<double>(model.hidden) +
                          static_cast<double>(model.moe.top_k) *
                              (static_cast<double>(size_of(DType::i32)) + 2.0 * wide));
      work.transfers = times * layers * work.passes;
    }
  }

  // Parameters of this rank, those of experts apart: they have fewer replicas.
  const double local = static_cast<double>(layout.plan.parameters) / value;
  const double matrices = pre_activation_factor(model.activation.kind) + 1;
  const std::int64_t own_experts = model.moe.experts / group;
  const double experts = layers == 0.0
                             ? 0.0
                             : layers * static_cast<double>(own_experts) * matrices *
                                   static_cast<double>(model.hidden * model.expert_width());
  const auto shared_out = [&](double parameters, int ranks) {
    return parameters * (1.0 - 1.0 / ranks);
  };
  const double travelling =
      shared_out(local - experts, layout.ranks) + shared_out(experts, replicas);
  const double of_gradient = work.gradients / local;
  work.reduced = travelling * of_gradient;
  work.gathered = travelling * value;
  // Read and written: state and values; the gradient is read twice, for its norm as well.
  const double owned = local - travelling;
  work.updated =
      2.0 * static_cast<double>(layout.plan.optimizer) + owned * (2.0 * of_gradient + 2.0 * value);
  work.segments = static_cast<double>(model.layers + 2);
  return work;
}

double StepModel::gather_seconds(const Work& work, const LinkRates& link) {
  return work.gathered / link.all_gather + work.segments * link.latency;
}

double StepModel::exposed_reduction(const Work& work, const LinkRates& link,
                                    double backward) const {
  const double seconds = work.reduced / link.reduce_scatter + work.segments * link.latency;
  return on_gpu() ? std::max(seconds - backward / work.passes, 0.0) : seconds;
}

StepModel::Rates StepModel::rates_of(const MeasuredStep& measured) const {
  Config config = measured.config;
  config.run.device = on_gpu() ? "cuda" : "cpu";
  const EstimatedLayout layout{
      .config = config,
      .ranks = measured.ranks,
      .ranks_per_node = measured.ranks,
      .plan = plan_memory(config, {.ranks = measured.ranks,
                                   .threads = measured.threads_per_rank,
                                   .backend = on_gpu() ? DeviceType::cuda : DeviceType::cpu})};
  const Work work = work_of(layout);
  // What is left for a rate where another term would explain all of its phase.
  const auto left = [](double seconds, double explained) {
    return std::max(seconds - explained, 0.1 * seconds);
  };
  Rates rates;
  rates.forward = measured.phase(Phase::forward) / work.forward;
  rates.gradients = 2.0 / measured.copy;
  const double accumulation = work.passes * work.gradients * rates.gradients;
  const double backward =
      measured.phase(Phase::backward) + measured.phase(Phase::gradient_reduction);
  double travelled = 0.0, gathered = 0.0, reduced = 0.0;
  if (measured.ranks > 1) {
    const LinkRates& link = measured.link;
    travelled = work.sent / link.all_to_all + work.transfers * link.latency;
    gathered = gather_seconds(work, link);
    reduced = exposed_reduction(work, link, measured.phase(Phase::backward));
  }
  rates.backward =
      left(backward, accumulation + work.again * rates.forward + reduced) / work.forward;
  if (work.moves > 0.0)
    rates.moves =
        left(measured.phase(Phase::exchange) + measured.phase(Phase::exchange_wait), travelled) /
        work.moves;
  const double optimizer = measured.phase(Phase::optimizer);
  rates.updated = (on_gpu() ? optimizer : left(optimizer, gathered)) / work.updated;
  rates.other = (measured.phase(Phase::other) + measured.phase(Phase::data)) / work.tokens;
  return rates;
}

StepEstimate StepModel::estimate(const EstimatedLayout& layout) const {
  const MeasuredStep& measured = nearest(layout.ranks);
  const Rates rates = rates_of(measured);
  const Work work = work_of(layout);
  // A CPU node's ranks share what it can do.
  const double slower =
      on_gpu()
          ? 1.0
          : static_cast<double>(std::min(layout.ranks, layout.ranks_per_node)) / measured.ranks;
  const double backward = rates.backward * work.forward + rates.forward * work.again +
                          work.passes * work.gradients * rates.gradients;
  StepEstimate estimate;
  estimate.compute = slower * (rates.forward * work.forward + backward + rates.moves * work.moves);
  estimate.optimizer = slower * rates.updated * work.updated;
  estimate.other = slower * rates.other * work.tokens;
  if (layout.ranks == 1) return estimate;
  const LinkRates link = link_of(layout.ranks, layout.ranks_per_node);
  // Ranks that share out experts follow one another: a node's own as long as they divide it.
  const bool within_node = layout.ranks_per_node % layout.config.parallel.expert == 0;
  const LinkRates of_rows =
      within_node ? link_of(std::min(layout.ranks, layout.ranks_per_node), layout.ranks_per_node)
                  : link;
  estimate.exchange = work.sent / of_rows.all_to_all + work.transfers * of_rows.latency;
  estimate.reduction = exposed_reduction(work, link, slower * backward);
  const double gathered = gather_seconds(work, link);
  estimate.optimizer =
      on_gpu() ? std::max(estimate.optimizer, gathered) : estimate.optimizer + gathered;
  return estimate;
}

std::vector<std::string> StepModel::extrapolations(const EstimatedLayout& layout) const {
  constexpr int checked_gpus = 2;
  const MeasuredStep& measured = nearest(layout.ranks);
  std::vector<std::string> lines;
  if (on_gpu() && layout.ranks > checked_gpus)
    lines.push_back(
        fmt::format("more than {} GPUs, on which predictions were checked", checked_gpus));
  if (!on_gpu() && layout.ranks != measured.ranks)
    lines.push_back("ranks of a CPU that were not measured; none of these predictions was checked");
  if (layout.ranks > layout.ranks_per_node && !between_nodes_.known())
    lines.push_back("several nodes, whose link was not measured: taken as one node's (--link)");
  if (!same_model(measured.config, layout.config))
    lines.push_back(fmt::format("another model than the measured one of {}", measured.file));
  return lines;
}

}  // namespace polymoe
