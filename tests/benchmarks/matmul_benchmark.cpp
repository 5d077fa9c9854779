// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/matmul.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

// m, n, k, transposed a, transposed b
template <class T>
void matmul_of(benchmark::State& state) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto transpose_a = static_cast<Transpose>(state.range(3) != 0);
  const auto transpose_b = static_cast<Transpose>(state.range(4) != 0);
  Stream stream(Device::cpu());
  const OwnedTensor a(transpose_a == Transpose::yes ? Shape{k, m} : Shape{m, k}, dtype_of<T>(),
                      Device::cpu());
  const OwnedTensor b(transpose_b == Transpose::yes ? Shape{n, k} : Shape{k, n}, dtype_of<T>(),
                      Device::cpu());
  const OwnedTensor c({m, n}, dtype_of<T>(), Device::cpu());
  fill(0.5, *a, stream);
  fill(0.25, *b, stream);
  fill(0.0, *c, stream);
  for (auto _ : state) matmul(*a, transpose_a, *b, transpose_b, Write::overwrite, *c, stream);
  const double operations = 2.0 * static_cast<double>(m * n * k * state.iterations());
  state.counters["flop/s"] = {operations, benchmark::Counter::kIsRate};
  state.counters["of_product"] = {operations / benchmarks::matrix_product_rate(),
                                  benchmark::Counter::kIsRate};
}

// A linear layer's three products on 2048 tokens, a decoding step, and the ceiling itself.
void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k", "ta", "tb"})->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark->Args({2048, 1024, 1024, 0, 1});
  benchmark->Args({2048, 1024, 1024, 0, 0});
  benchmark->Args({1024, 1024, 2048, 1, 0});
  benchmark->Args({1, 1024, 1024, 0, 1});
  benchmark->Args({2048, 2048, 2048, 0, 1});
}
BENCHMARK(matmul_of<float>)->Name("matmul_f32")->Apply(sizes);
BENCHMARK(matmul_of<double>)
    ->Name("matmul_f64")
    ->ArgNames({"m", "n", "k", "ta", "tb"})
    ->Args({512, 512, 512, 0, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
