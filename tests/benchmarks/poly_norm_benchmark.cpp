// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/poly_norm.h"

#include <benchmark/benchmark.h>

#include <cmath>

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

// rows x width, order
struct Problem {
  explicit Problem(const benchmark::State& state)
      : norm{.order = static_cast<int>(state.range(2))},
        x({state.range(0), state.range(1)}, DType::f32, Device::cpu()),
        y(x->shape(), DType::f32, Device::cpu()),
        d_x(x->shape(), DType::f32, Device::cpu()),
        a({norm.order + 1}, DType::f32, Device::cpu()),
        d_a(a->shape(), DType::f32, Device::cpu()) {
    for (std::int64_t i = 0; i < x->elements(); ++i) {
      x->data<float>()[i] = 2.0F * std::sin(static_cast<float>(i % 4099));
    }
    fill(0.25, *y, stream);
    fill(0.0, *d_x, stream);
    fill(1.0 / norm.order, *a, stream);
  }
  PolyNorm norm;
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 26}};
  OwnedTensor x, y, d_x, a, d_a;
};

void poly_norm_forward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) poly_norm_forward(p.norm, *p.x, *p.a, *p.y, p.stream);
  count_bytes(state, 2.0);
}

void poly_norm_backward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) {
    poly_norm_backward(p.norm, *p.y, *p.x, *p.a, *p.d_x, *p.d_a, p.scratch, p.stream);
  }
  count_bytes(state, 3.0);
}

// The experts' rows of a batch from memory, and a tile's that is in cache.
void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "width", "order"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int order : {2, 3, 4}) benchmark->Args({16384, 1536, order});
  benchmark->Args({64, 1536, 3});
}
BENCHMARK(poly_norm_forward_f32)->Apply(sizes);
BENCHMARK(poly_norm_backward_f32)->Apply(sizes);

}  // namespace
}  // namespace polymoe
