// SPDX-License-Identifier: Apache-2.0
#include "moe/moe_layer_run.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "runtime/random.h"
#include "support/random_tensor.h"
#include "support/run_ranks.h"

namespace polymoe::test {
namespace {

// The elements of each logical tensor of a stacked one.
Tensor part(const Tensor& stacked, const Parameter& parameter, std::size_t index) {
  const auto parts = static_cast<std::int64_t>(parameter.logical.size());
  const std::int64_t size = stacked.elements() / parts;
  return stacked.view({parts, size})
      .rows(static_cast<std::int64_t>(index), static_cast<std::int64_t>(index) + 1);
}

void assign(const Tensor& to, const std::vector<double>& values) {
  const OwnedTensor source = tensor_of(to.shape(), to.dtype(), values);
  std::memcpy(to.raw(), source->raw(), to.bytes());
}

void set_values(const LayerCase& layer_case, ParameterStore& store) {
  Stream stream(store.device());
  store.initialize(5, stream);
  for (const Parameter& parameter : store.parameters()) {
    for (std::size_t i = 0; i < parameter.logical.size(); ++i) {
      const std::string& name = parameter.logical[i].name;
      const Tensor values = part(parameter.value, parameter, i);
      if (const auto listed = layer_case.values.find(name); listed != layer_case.values.end()) {
        assign(values, listed->second);
      } else if (name.ends_with("coefficients")) {
        std::vector<double> moved = values_of(values);
        const RandomStream random(5, name);
        for (std::size_t j = 0; j < moved.size(); ++j) moved[j] += 0.2 * random.normal(j);
        assign(values, moved);
      }
    }
  }
}

}  // namespace

std::string LayerLayout::name() const {
  return std::to_string(ranks) + " ranks, expert parallel " + std::to_string(expert_parallel) +
         (node_ranks == 1 ? "" : ", nodes of " + std::to_string(node_ranks));
}

LayerRank::LayerRank(const LayerCase& layer_case, std::unique_ptr<Communicator> world,
                     int expert_parallel, DType dtype, Device device, int node_ranks)
    : mesh_(std::move(world), expert_parallel, node_ranks),
      store_(mesh_),
      execution_({.device = device, .capacity = std::size_t{1} << 26, .poison = true}) {
  omp_set_num_threads(1);
  store_.begin_segment();
  layer_ = std::make_unique<MoeLayer>(layer_case.config, 0, mesh_, store_);
  store_.allocate(dtype, device);
  if (device == Device::cpu()) set_values(layer_case, store_);
  saved_ = layer_->make_saved();
  const Tensor bias = layer_->bias();
  if (!layer_case.bias.empty()) {
    std::copy(layer_case.bias.begin(), layer_case.bias.end(), bias.data<float>());
  }
}

void LayerRank::forward_backward(const Tensor& x, const Tensor& d_y, const BatchLayout& layout,
                                 Tensor y, Tensor d_x, bool recompute) {
  ExecutionContext& context = execution_.context();
  if (recompute) {
    const Arena::Scope scope(context.arena);
    layer_->forward(x, layout, *saved_, y, context);
  }
  const Arena::Scope scope(context.arena);
  layer_->forward(x, layout, *saved_, y, context);
  const std::size_t kept = context.arena.mark();
  layer_->backward(d_y, layout, *saved_, d_x, context);
  if (context.arena.mark() != kept) throw InvalidArgument("backward kept memory of the arena");
}

LayerResult run_layer(const LayerCase& layer_case, const LayerLayout& layout, const Tensor& x,
                      const Tensor& d_y) {
  BatchLayout batch{.sequences = 0, .length = layer_case.length, .global = {}};
  for (const auto& micro_batch : layout.sequences) {
    for (const std::int64_t sequences : micro_batch) batch.global.sequences += sequences;
    batch.global.micro_batches += layout.ranks;
  }
  batch.global.tokens = batch.global.sequences * batch.length;
  const OwnedTensor y = poisoned_tensor(x.shape(), x.dtype());
  const OwnedTensor d_x = poisoned_tensor(x.shape(), x.dtype());

  std::vector<LayerResult> results(static_cast<std::size_t>(layout.ranks));
  run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
    const auto self = static_cast<std::size_t>(world->rank());
    LayerRank rank(layer_case, std::move(world), layout.expert_parallel, x.dtype(), Device::cpu(),
                   layout.node_ranks);
    BatchLayout own = batch;
    std::int64_t row = 0;
    for (const auto& micro_batch : layout.sequences) {
      for (std::size_t r = 0; r < micro_batch.size(); ++r) {
        const std::int64_t end = row + micro_batch[r] * batch.length;
        if (r == self) {
          own.sequences = micro_batch[r];
          rank.forward_backward(x.rows(row, end), d_y.rows(row, end), own, y->rows(row, end),
                                d_x->rows(row, end));
        }
        row = end;
      }
    }
    LayerResult& result = results[self];
    for (const Parameter& parameter : rank.store().parameters()) {
      for (std::size_t i = 0; i < parameter.logical.size(); ++i) {
        result.gradients[parameter.logical[i].name] =
            values_of(part(parameter.gradient, parameter, i));
      }
    }
    const RouterLosses losses = rank.layer().take_losses(rank.stream());
    result.balance = losses.balance;
    result.z = losses.z;
    result.counts = rank.layer().take_counts(rank.stream());
    result.memory = rank.arena().high_water();
    result.extra_rounds = rank.layer().take_extra_rounds();
    rank.shutdown();
  });

  LayerResult sum{.y = values_of(*y), .d_x = values_of(*d_x), .gradients = {}, .counts = {}};
  for (const LayerResult& result : results) {
    for (const auto& [name, values] : result.gradients) {
      std::vector<double>& total = sum.gradients[name];
      total.resize(values.size(), 0.0);
      for (std::size_t i = 0; i < values.size(); ++i) total[i] += values[i];
    }
    sum.balance += result.balance;
    sum.z += result.z;
    sum.extra_rounds += result.extra_rounds;
    sum.memory = std::max(sum.memory, result.memory);
    sum.counts.resize(result.counts.size(), 0);
    for (std::size_t e = 0; e < result.counts.size(); ++e) sum.counts[e] += result.counts[e];
  }
  return sum;
}

}  // namespace polymoe::test
