// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

// experts, rows per expert, hidden, ffn; polynorm of order 3
struct Problem {
  explicit Problem(const benchmark::State& state)
      : experts(state.range(0)),
        rows(experts * state.range(1)),
        hidden(state.range(2)),
        ffn(state.range(3)) {
    for (std::int64_t e = 0; e <= experts; ++e) offsets.push_back(e * state.range(1));
    x = filled({rows, hidden}, 0.5);
    y = filled({rows, hidden}, 0.0);
    d_x = filled({rows, hidden}, 0.0);
    pre = filled({rows, ffn}, 0.0);
    row_weights = filled({rows}, 0.25);
    d_row_weights = filled({rows}, 0.0);
    up = filled({experts, ffn, hidden}, 0.02);
    down = filled({experts, hidden, ffn}, 0.02);
    a = filled({1, 4}, 1.0 / 3.0);
    d_up = filled({experts, ffn, hidden}, 0.0);
    d_down = filled({experts, hidden, ffn}, 0.0);
    d_a = filled({1, 4}, 0.0);
    forward();
  }
  OwnedTensor filled(const Shape& shape, double value) {
    OwnedTensor tensor(shape, DType::f32, Device::cpu());
    fill(value, *tensor, stream);
    return tensor;
  }
  void forward() {
    feed_forward_forward({}, {*up, *down, *a}, *x, offsets, *row_weights, *pre, *y, scratch,
                         stream);
  }
  void backward() {
    FeedForwardWeights gradients{*d_up, *d_down, *d_a};
    feed_forward_backward({}, {*up, *down, *a}, *x, *x, offsets, *row_weights, *pre, *d_x,
                          *d_row_weights, gradients, scratch, stream);
  }
  // `products`: how many products of rows x hidden x ffn one iteration does.
  void count(benchmark::State& state, double products) const {
    const double operations =
        2.0 * products * static_cast<double>(rows * hidden * ffn * state.iterations());
    state.counters["flop/s"] = {operations, benchmark::Counter::kIsRate};
    state.counters["of_product"] = {operations / benchmarks::matrix_product_rate(),
                                    benchmark::Counter::kIsRate};
  }
  std::int64_t experts, rows, hidden, ffn;
  ExpertOffsets offsets;
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 30}};
  OwnedTensor x, y, d_x, pre, row_weights, d_row_weights, up, down, a, d_up, d_down, d_a;
};

void feed_forward_forward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) p.forward();
  p.count(state, 2.0);
}

void feed_forward_backward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) p.backward();
  p.count(state, 4.0);
}

// bench-moe's experts, bench-dense's feed-forward, and experts with few rows.
void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"experts", "rows", "hidden", "ffn"})
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  benchmark->Args({16, 512, 1024, 768});
  benchmark->Args({1, 2048, 1024, 2816});
  benchmark->Args({8, 64, 2048, 1536});
}
BENCHMARK(feed_forward_forward_f32)->Apply(sizes);
BENCHMARK(feed_forward_backward_f32)->Apply(sizes);

}  // namespace
}  // namespace polymoe
