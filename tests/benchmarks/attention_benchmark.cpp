// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention.h"

#include <benchmark/benchmark.h>

#include "machine_rates.h"
#include "runtime/buffer.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

OwnedTensor random_rows(const Shape& shape, const char* name) {
  OwnedTensor tensor(shape, DType::f32, Device::cpu());
  const RandomStream random(1, name);
  for (std::int64_t i = 0; i < tensor->elements(); ++i) {
    tensor->data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return tensor;
}

// Arguments: batch, query length, key length, heads, key heads, head dimension.
struct Problem {
  explicit Problem(const benchmark::State& state)
      : shape{state.range(0), state.range(1), state.range(2),
              state.range(3), state.range(4), state.range(5)},
        q(random_rows({shape.batch * shape.query_length, shape.heads, shape.head_dim}, "q")),
        k(random_rows({shape.batch * shape.key_length, shape.kv_heads, shape.head_dim}, "k")),
        v(random_rows(k->shape(), "v")),
        d_out(random_rows(q->shape(), "d_out")),
        out(q->shape(), DType::f32, Device::cpu()),
        log_sum_exp({shape.batch, shape.heads, shape.query_length}, DType::f32, Device::cpu()),
        d_q(q->shape(), DType::f32, Device::cpu()),
        d_k(k->shape(), DType::f32, Device::cpu()),
        d_v(k->shape(), DType::f32, Device::cpu()) {
    forward();
  }
  void forward() { attention_forward(shape, *q, *k, *v, *out, *log_sum_exp, scratch, stream); }
  void backward() {
    attention_backward(shape, *d_out, *q, *k, *v, *out, *log_sum_exp, *d_q, *d_k, *d_v, scratch,
                       stream);
  }
  // `products` score-sized products, of which a causal mask leaves the visible part.
  void count(benchmark::State& state, double products) const {
    const auto queries = static_cast<double>(shape.query_length);
    const double pairs = queries * (static_cast<double>(shape.key_length) - 0.5 * (queries - 1.0));
    const double operations = 2.0 * products * pairs *
                              static_cast<double>(shape.batch * shape.heads * shape.head_dim) *
                              static_cast<double>(state.iterations());
    state.counters["flop/s"] = {operations, benchmark::Counter::kIsRate};
    state.counters["of_sgemm"] = {operations / benchmarks::matrix_product_rate(),
                                  benchmark::Counter::kIsRate};
  }

  AttentionShape shape;
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 30}};
  OwnedTensor q, k, v, d_out, out, log_sum_exp, d_q, d_k, d_v;
};

void attention_forward_f32(benchmark::State& state) {
  Problem problem(state);
  for (auto _ : state) problem.forward();
  problem.count(state, 2.0);
}

void attention_backward_f32(benchmark::State& state) {
  Problem problem(state);
  problem.backward();  // touches every page
  for (auto _ : state) problem.backward();
  problem.count(state, 5.0);
}

void attention_decoding_f32(benchmark::State& state) {
  Problem problem(state);
  for (auto _ : state) problem.forward();
  const double bytes = static_cast<double>(problem.k->bytes() + problem.v->bytes()) *
                       static_cast<double>(state.iterations());
  state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
}

void training_shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({1, 4096, 4096, 4, 4, 128})->Args({1, 4096, 4096, 8, 2, 64});
  benchmark->Args({8, 512, 512, 8, 8, 128})->Args({16, 256, 256, 4, 4, 64});
}
BENCHMARK(attention_forward_f32)
    ->Apply(training_shapes)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(attention_backward_f32)
    ->Apply(training_shapes)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(attention_decoding_f32)
    ->Args({1, 1, 4096, 16, 16, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace polymoe
