// SPDX-License-Identifier: Apache-2.0
#include "moe/language_model.h"

#include <benchmark/benchmark.h>

#include <utility>

#include "machine_rates.h"
#include "moe/model_size.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/execution.h"

namespace polymoe {
namespace {

/// The model of launch/configs/bench-moe.ini, or a dense one of as many active parameters.
ModelConfig bench_config(bool mixture) {
  ModelConfig config;
  config.layers = 4;
  config.hidden = 1024;
  config.heads = 8;
  config.vocab = 4096;
  config.context = 512;
  config.qk_norm = true;
  config.ffn = 4 * 768;
  if (mixture) {
    config.moe.experts = 16;
    config.moe.top_k = 4;
    config.moe.expert_ffn = 768;
  }
  return config;
}

// Arguments: mixture of experts or dense; the number of a Recompute. Forward and backward of 4
// sequences on one rank.
void forward_backward_f32(benchmark::State& state) {
  const ModelConfig config = bench_config(state.range(0) != 0);
  const auto recompute = static_cast<Recompute>(state.range(1));
  constexpr std::int64_t sequences = 4;
  const std::int64_t tokens = sequences * config.context;

  ProcessMesh mesh(std::move(make_local_communicators(1).front()), 1);
  ParameterStore store(mesh);
  LanguageModel model(config, mesh, store);
  store.allocate(DType::f32, Device::cpu());
  Execution execution({.device = Device::cpu(), .capacity = std::size_t{16} << 30});
  ExecutionContext& context = execution.context();
  store.initialize(1, context.stream);
  OwnedTensor ids({tokens}, DType::i32, Device::cpu());
  for (std::int64_t t = 0; t < tokens; ++t) {
    ids->data<std::int32_t>()[t] = static_cast<std::int32_t>(t * 2654435761 % config.vocab);
  }
  const TokenBatch batch{*ids, *ids, sequences, config.context};
  const GlobalBatch global{.tokens = tokens, .sequences = sequences, .micro_batches = 1};
  const auto run = [&] { model.forward_backward(batch, global, recompute, {}, context); };
  run();  // touches every page
  for (auto _ : state) run();
  const double operations =
      training_flops_per_token(config) * static_cast<double>(tokens * state.iterations());
  state.counters["flop/s"] = {operations, benchmark::Counter::kIsRate};
  state.counters["of_sgemm"] = {operations / benchmarks::matrix_product_rate(),
                                benchmark::Counter::kIsRate};
  state.counters["arena_MB"] = static_cast<double>(context.arena.high_water()) * 1e-6;
}
BENCHMARK(forward_backward_f32)
    ->ArgNames({"moe", "recompute"})
    ->Args({1, 0})
    ->Args({1, 1})
    ->Args({1, 2})
    ->Args({0, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
