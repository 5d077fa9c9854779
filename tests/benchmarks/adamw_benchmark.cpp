// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw.h"

#include <benchmark/benchmark.h>

#include <array>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

void adamw_f32(benchmark::State& state) {
  const std::int64_t count = state.range(0);
  Stream stream(Device::cpu());
  const OwnedTensor gradient({count}, DType::f32, Device::cpu());
  OwnedTensor parameter({count}, DType::f32, Device::cpu());
  std::array<OwnedTensor, optimizer_state_kinds.size()> owned;
  OptimizerState kept;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    owned[i] = OwnedTensor({count}, DType::f32, Device::cpu());
    kept[i] = *owned[i];
  }
  fill(0.01, *gradient, stream);
  const AdamWStep step{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 10};
  adamw(step, *gradient, *parameter, kept, {}, stream);  // touches every page
  for (auto _ : state) adamw(step, *gradient, *parameter, kept, {}, stream);
  const double bytes =
      (3.0 + 2.0 * kept.size()) * 4.0 * static_cast<double>(count * state.iterations());
  state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
  state.counters["of_copy"] = {bytes / benchmarks::copy_bandwidth(), benchmark::Counter::kIsRate};
}
BENCHMARK(adamw_f32)->Arg(1 << 25)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
