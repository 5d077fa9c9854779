// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

void count_bytes(benchmark::State& state, double tensors) {
  const double bytes =
      tensors * 4.0 *
      static_cast<double>(state.range(0) * state.range(1) * state.range(2) * state.iterations());
  state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
  state.counters["of_copy"] = {bytes / benchmarks::copy_bandwidth(), benchmark::Counter::kIsRate};
}

// x, y and d_x of rows x heads x head_dim, the norm applied once.
struct Problem {
  explicit Problem(const benchmark::State& state)
      : width(state.range(1) * state.range(2)),
        x({state.range(0), state.range(1), state.range(2)}, DType::f32, Device::cpu()),
        y(x->shape(), DType::f32, Device::cpu()),
        d_x(x->shape(), DType::f32, Device::cpu()),
        weight({width}, DType::f32, Device::cpu()),
        d_weight({width}, DType::f32, Device::cpu()),
        inv_rms({state.range(0)}, DType::f32, Device::cpu()) {
    fill(0.5, *x, stream);
    fill(1.0, *weight, stream);
    norm_rotary_forward(positions, *x, *weight, 1e-5, *y, *inv_rms, stream);
  }
  RotaryPositions positions{.sequence_length = 4096};
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 28}};
  std::int64_t width;
  OwnedTensor x, y, d_x, weight, d_weight, inv_rms;
};

void norm_rotary_forward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) {
    norm_rotary_forward(p.positions, *p.x, *p.weight, 1e-5, *p.y, *p.inv_rms, p.stream);
  }
  count_bytes(state, 2.0);
}

void norm_rotary_backward_f32(benchmark::State& state) {
  Problem p(state);
  const auto run = [&] {
    norm_rotary_backward(p.positions, *p.y, *p.x, *p.inv_rms, *p.weight, *p.d_x, *p.d_weight,
                         p.scratch, p.stream);
  };
  run();  // touches every page
  for (auto _ : state) run();
  count_bytes(state, 3.0);
}

// The two operations that it fuses, with the bytes of the fused one.
void norm_then_rotary_forward_f32(benchmark::State& state) {
  Problem p(state);
  const Shape flat{state.range(0), p.width};
  for (auto _ : state) {
    rms_norm_forward(p.x->view(flat), *p.weight, 1e-5, p.y->view(flat), *p.inv_rms, p.stream);
    rotary_forward(p.positions, *p.y, p.stream);
  }
  count_bytes(state, 2.0);
}

BENCHMARK(norm_rotary_forward_f32)
    ->Args({16384, 16, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(norm_rotary_backward_f32)
    ->Args({16384, 16, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(norm_then_rotary_forward_f32)
    ->Args({16384, 16, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
