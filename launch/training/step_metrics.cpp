// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_metrics.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>
#include "moe/routing_statistics.h"
#include "runtime/files/json.h"
#include "runtime/files/tensorboard_writer.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

template <class Value>
Json per_layer(const StepMetrics& metrics, Value value) {
  Json array = Json::array();
  for (const RoutingStatistics& layer : metrics.routing) array.add(value(layer));
  return array;
}

void add_evaluations(const StepMetrics& metrics, Json& row) {
  if (metrics.valid_loss) {
    row.set("valid_loss", *metrics.valid_loss);
    row.set("valid_perplexity", std::exp(*metrics.valid_loss));
  }
  for (const auto& [name, loss] : metrics.valid_losses) row.set("valid_loss/" + name, loss);
  for (const auto& [name, score] : metrics.scores) row.set("eval/" + name, score);
}

}  // namespace

Json metrics_row(const StepMetrics& metrics) {
  Json row = Json::object();
  row.set("step", metrics.step);
  row.set("tokens", metrics.tokens);
  row.set("loss", metrics.loss);
  row.set("aux_loss", metrics.aux_loss);
  row.set("z_loss", metrics.z_loss);
  row.set("lr", metrics.lr);
  row.set("grad_norm", metrics.grad_norm);
  if (metrics.z_score) row.set("grad_norm_z", *metrics.z_score);
  row.set("skipped_steps", metrics.skipped_steps);
  row.set("tokens_per_second", metrics.tokens_per_second);
  row.set("mfu", metrics.mfu);
  Json seconds = Json::object();
  for (std::size_t i = 0; i < metrics.seconds.size(); ++i)
    seconds.set(name_of(static_cast<Phase>(i)), metrics.seconds[i]);
  row.set("step_seconds", std::move(seconds));
  row.set("checkpoint_seconds", metrics.checkpoint_seconds);
  if (!metrics.routing.empty()) {
    using Layer = RoutingStatistics;
    row.set("load_max_over_mean",
            per_layer(metrics, [](const Layer& layer) { return layer.load_max_over_mean(); }));
    row.set("dead_experts",
            per_layer(metrics, [](const Layer& layer) { return layer.dead_experts(); }));
    row.set("routing_entropy",
            per_layer(metrics, [](const Layer& layer) { return layer.entropy(); }));
    row.set("dropped", per_layer(metrics, [](const Layer& layer) { return layer.dropped; }));
    row.set("extra_rounds",
            per_layer(metrics, [](const Layer& layer) { return layer.extra_rounds; }));
  }
  if (metrics.waiting) {
    row.set("exposed_exchange", metrics.waiting->exposed_exchange);
    row.set("waiting", metrics.waiting->waiting);
    row.set("routing_tax", metrics.waiting->routing_tax);
    row.set("hardware_tax", metrics.waiting->hardware_tax);
    row.set("ranks", metrics.ranks);
  }
  add_evaluations(metrics, row);
  return row;
}

Json evaluation_row(const StepMetrics& metrics) {
  Json row = Json::object();
  row.set("step", metrics.step).set("tokens", metrics.tokens);
  add_evaluations(metrics, row);
  return row;
}

Json experts_row(const StepMetrics& metrics) {
  Json row = Json::object();
  row.set("step", metrics.step).set("tokens", metrics.tokens);
  row.set("layers", per_layer(metrics, [](const RoutingStatistics& layer) { return layer.layer; }));
  row.set("expert_tokens", per_layer(metrics, [](const RoutingStatistics& layer) {
            Json counts = Json::array();
            for (const std::int64_t count : layer.expert_rows) counts.add(count);
            return counts;
          }));
  return row;
}

std::vector<TensorBoardWriter::Scalar> metrics_scalars(const StepMetrics& metrics) {
  std::vector<TensorBoardWriter::Scalar> scalars;
  const auto add = [&](std::string tag, double value) {
    scalars.push_back({.tag = std::move(tag), .value = static_cast<float>(value)});
  };
  add("train/tokens", static_cast<double>(metrics.tokens));
  add("train/loss", metrics.loss);
  add("train/aux_loss", metrics.aux_loss);
  add("train/z_loss", metrics.z_loss);
  add("train/lr", metrics.lr);
  add("train/grad_norm", metrics.grad_norm);
  if (metrics.z_score) add("train/grad_norm_z", *metrics.z_score);
  add("train/skipped_steps", static_cast<double>(metrics.skipped_steps));
  add("speed/tokens_per_second", metrics.tokens_per_second);
  add("speed/mfu", metrics.mfu);
  add("speed/checkpoint_seconds", metrics.checkpoint_seconds);
  for (std::size_t i = 0; i < metrics.seconds.size(); ++i)
    add(fmt::format("step_seconds/{}", name_of(static_cast<Phase>(i))), metrics.seconds[i]);
  for (const RoutingStatistics& layer : metrics.routing) {
    const std::string prefix = fmt::format("layers.{}/", layer.layer);
    add(prefix + "load_max_over_mean", layer.load_max_over_mean());
    add(prefix + "dead_experts", static_cast<double>(layer.dead_experts()));
    add(prefix + "routing_entropy", layer.entropy());
    add(prefix + "dropped", static_cast<double>(layer.dropped));
    add(prefix + "extra_rounds", static_cast<double>(layer.extra_rounds));
  }
  if (metrics.waiting) {
    add("speed/exposed_exchange", metrics.waiting->exposed_exchange);
    add("speed/waiting", metrics.waiting->waiting);
    add("speed/routing_tax", metrics.waiting->routing_tax);
    add("speed/hardware_tax", metrics.waiting->hardware_tax);
  }
  std::ranges::move(evaluation_scalars(metrics), std::back_inserter(scalars));
  return scalars;
}

std::vector<TensorBoardWriter::Scalar> evaluation_scalars(const StepMetrics& metrics) {
  std::vector<TensorBoardWriter::Scalar> scalars;
  const auto add = [&](std::string tag, double value) {
    scalars.push_back({.tag = std::move(tag), .value = static_cast<float>(value)});
  };
  if (metrics.valid_loss) {
    add("valid/loss", *metrics.valid_loss);
    add("valid/perplexity", std::exp(*metrics.valid_loss));
  }
  for (const auto& [name, loss] : metrics.valid_losses) add("valid/loss/" + name, loss);
  for (const auto& [name, score] : metrics.scores) add("eval/" + name, score);
  return scalars;
}

}  // namespace polymoe
