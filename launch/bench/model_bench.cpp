// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/model_bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/bench/exchange_cost.h"
#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/data/token_rows.h"
#include "launch/step/memory_plan.h"
#include "moe/decoding_cache.h"
#include "moe/language_model.h"
#include "moe/measured_routing.h"
#include "moe/model_config.h"
#include "moe/model_size.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/buffer.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/random.h"
#include "runtime/stream.h"
#include "runtime/system.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

std::int64_t most_of_ranks(std::int64_t value, Communicator& world, Stream& stream) {
  const OwnedTensor most({1}, DType::i64, Device::cpu());
  *most->data<std::int64_t>() = value;
  world.all_reduce(*most, Reduction::max, stream);
  return *most->data<std::int64_t>();
}

/// The process's peak; on a GPU what is taken now, by whomever, and of the arena what was used.
std::int64_t memory_in_use(ExecutionContext& context) {
  const Device device = context.stream.device();
  if (device.type != DeviceType::cuda) return peak_memory_bytes();
  const cuda::MemoryInfo info = cuda::memory_info(device.index);
  return static_cast<std::int64_t>(info.total - info.free - context.arena.capacity() +
                                   context.arena.high_water());
}

std::int32_t random_token(std::uint64_t index, std::int64_t vocab) {
  static const RandomStream random(1, "bench tokens");
  return static_cast<std::int32_t>(random.bits(index) % static_cast<std::uint64_t>(vocab));
}

/// Bytes of the weights that so many tokens meet on a rank whose group shares out the experts: of a
/// layer's as many as the tokens choose where no two choose the same, or all.
double active_bytes(const ModelConfig& model, std::int64_t tokens, int expert_parallel,
                    DType dtype) {
  auto weights = static_cast<double>(active_parameters(model));
  // Of the embedding's table one row is read.
  if (!model.tied) weights -= static_cast<double>(model.vocab * model.hidden);
  const std::int64_t matrices = pre_activation_factor(model.activation.kind) + 1;
  const auto expert = static_cast<double>(matrices * model.hidden *
                                          (model.moe.experts > 0 ? model.expert_width() : 0));
  const auto met = static_cast<double>(std::min(model.moe.top_k * tokens, model.moe.experts));
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    if (model.is_moe_layer(layer))
      weights += expert * (met / expert_parallel - static_cast<double>(model.moe.top_k));
  return static_cast<double>(size_of(dtype)) * weights;
}

const char* routing_text(Routing routing) {
  switch (routing) {
    case Routing::router:
      return "";
    case Routing::balanced:
      return ", balanced routing";
    case Routing::skewed:
      return ", skewed routing";
  }
  return "";
}

}  // namespace

ModelBench::ModelBench(const Config& config, std::int64_t document_tokens, const ProcessMesh& mesh,
                       const MemoryPlan& plan, ExecutionContext& context)
    : config_(config),
      document_tokens_(document_tokens),
      mesh_(mesh),
      plan_(plan),
      details_{.peak_before = most_of_ranks(memory_in_use(context), mesh.world(), context.stream)},
      training_(config, mesh, context.stream.device()) {
  training_.optimizer().initialize(config.train.seed, context.stream);
}

void ModelBench::measure_memory(ExecutionContext& context) {
  for (int i = 0; i < 2; ++i) step(context);
  details_.peak = most_of_ranks(memory_in_use(context), mesh_.world(), context.stream);
}

void ModelBench::step(ExecutionContext& context) {
  const std::int64_t vocab = config_.model.vocab;
  const auto rank = static_cast<std::uint64_t>(mesh_.world().rank());
  const StepShares& shares = training_.shares();
  const auto fill = [&](std::int64_t pass, const TokenRows& to) {
    const std::int64_t length = config_.model.context;
    const std::int64_t rows = shares.of(pass, mesh_.world().rank()).count * length;
    // Each rank draws from a range of its own.
    const std::uint64_t begin = (rank << 40) + drawn_;
    for (std::int64_t i = 0; i < rows; ++i) {
      to.tokens[i] = random_token(begin + static_cast<std::uint64_t>(i), vocab);
      to.targets[i] = random_token(begin + static_cast<std::uint64_t>(i) + 1, vocab);
      if (to.document_starts != nullptr)
        to.document_starts[i] =
            static_cast<std::int32_t>(i % length / document_tokens_ * document_tokens_);
    }
    drawn_ += static_cast<std::uint64_t>(rows);
  };
  training_.step(fill, shares.passes, context);
}

BenchResult ModelBench::time_steps(ExecutionContext& context) {
  const ModelConfig& model = config_.model;
  const std::int64_t tokens = config_.train.global_batch * model.context;
  const auto ranks = static_cast<double>(mesh_.world().size());
  BenchResult result{.name = "step"};
  result.shape = fmt::format("{} sequences of {}{}", config_.train.global_batch, model.context,
                             routing_text(model.moe.routing));
  if (config_.data.keeps_documents())
    result.shape += fmt::format(", documents of {}", document_tokens_);
  result.floor = {
      .bytes =
          static_cast<double>(3 * plan_.parameters + 2 * plan_.gradients + 2 * plan_.optimizer),
      .operations = training_flops_per_token(model) * static_cast<double>(tokens) / ranks};
  bool warm = false;
  const auto run = [&] {
    step(context);
    if (!warm) {
      context.timeline.reset();
      training_.model().take_traffic();
    }
    warm = true;
  };
  result.timing =
      time_runs(mesh_.world(), run, {.fewest = 5, .most = 20, .seconds = 10.0}, context.stream);
  details_.tokens_per_second = static_cast<double>(tokens) / result.timing.median;
  { const Timeline::Scope phase(context.timeline, Phase::other); }  // ends the last one
  for (std::size_t i = 0; i < details_.seconds.size(); ++i)
    details_.seconds[i] =
        context.timeline.seconds(static_cast<Phase>(i)) / static_cast<double>(result.timing.runs);
  details_.exchange = exchange_cost(
      training_.model().take_traffic(), result.timing.runs,
      details_.seconds[static_cast<std::size_t>(Phase::exchange_wait)], config_, mesh_, context);
  return result;
}

BenchResult ModelBench::time_generation(std::int64_t texts, ExecutionContext& context) {
  constexpr std::int64_t prompt = 64, most = 32;
  const ModelConfig& model = config_.model;
  const DType dtype = training_.parameters().dtype();
  std::vector<DecodingCache> caches;
  for (std::int64_t i = 0; i < texts; ++i)
    caches.emplace_back(model, prompt + most + 1, dtype, context.stream.device());
  std::uint64_t drawn = 0;
  const auto read = [&](std::int64_t count) {
    const Arena::Scope scope(context.arena);
    const Tensor tokens = context.arena.allocate({texts * count}, DType::i32);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(texts * count));
    for (std::int32_t& id : ids) id = random_token(drawn++, model.vocab);
    set_values(std::span<const std::int32_t>(ids), tokens, context.stream);
    std::vector<Continuation> sequences;
    for (DecodingCache& cache : caches) sequences.push_back({.cache = &cache, .tokens = count});
    training_.model().next_token_logits(tokens, sequences, context);
  };
  // A model that drops tokens by sequence takes several prompts token by token only.
  const std::int64_t at_once = texts > 1 ? 1 : prompt;
  for (std::int64_t i = 0; i < prompt; i += at_once) read(at_once);
  BenchResult result{.name = texts > 1 ? fmt::format("generation, {} texts", texts)
                                       : "generation, a token"};
  result.timing = time_runs(
      mesh_.world(), [&] { read(1); },
      {.fewest = 8, .most = static_cast<int>(most), .seconds = std::numeric_limits<double>::max()},
      context.stream);
  const std::int64_t before = prompt + most / 2;
  const double active = active_bytes(model, 1, 1, dtype) / static_cast<double>(size_of(dtype));
  const double row = 2.0 * static_cast<double>(size_of(dtype)) *
                     static_cast<double>(model.key_value_heads() * model.head_dim());
  result.shape =
      fmt::format("{} sequence{}, {} tokens before", texts, texts > 1 ? "s" : "", before);
  result.floor = {.bytes = active_bytes(model, texts, mesh_.expert_parallel(), dtype) +
                           row * static_cast<double>(texts * model.layers * before),
                  .operations = 2.0 * active * static_cast<double>(texts),
                  .reads_only = true};
  return result;
}

}  // namespace polymoe
