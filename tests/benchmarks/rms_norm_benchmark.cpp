// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm/rms_norm.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

void count_bytes(benchmark::State& state, double tensors) {
  const double bytes =
      tensors * 4.0 * static_cast<double>(state.range(0) * state.range(1) * state.iterations());
  state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
  state.counters["of_copy"] = {bytes / benchmarks::copy_bandwidth(), benchmark::Counter::kIsRate};
}

// x, y, d_y and d_x of rows x width, the norm applied once.
struct Problem {
  explicit Problem(const benchmark::State& state)
      : x({state.range(0), state.range(1)}, DType::f32, Device::cpu()),
        y(x->shape(), DType::f32, Device::cpu()),
        d_x(x->shape(), DType::f32, Device::cpu()),
        weight({state.range(1)}, DType::f32, Device::cpu()),
        d_weight({state.range(1)}, DType::f32, Device::cpu()),
        inv_rms({state.range(0)}, DType::f32, Device::cpu()) {
    fill(0.5, *x, stream);
    fill(1.0, *weight, stream);
    rms_norm_forward(*x, *weight, 1e-5, *y, *inv_rms, stream);
  }
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 28}};
  OwnedTensor x, y, d_x, weight, d_weight, inv_rms;
};

void rms_norm_forward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) rms_norm_forward(*p.x, *p.weight, 1e-5, *p.y, *p.inv_rms, p.stream);
  count_bytes(state, 2.0);
}

void rms_norm_backward_f32(benchmark::State& state) {
  Problem p(state);
  const auto run = [&] {
    rms_norm_backward(*p.y, *p.x, *p.inv_rms, *p.weight, Write::overwrite, *p.d_x, *p.d_weight,
                      p.scratch, p.stream);
  };
  run();  // touches every page
  for (auto _ : state) run();
  count_bytes(state, 3.0);
}

BENCHMARK(rms_norm_forward_f32)->Args({32768, 1024})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(rms_norm_backward_f32)->Args({32768, 1024})->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
