// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss/output_loss.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

// Arguments: rows, hidden, vocabulary.
void output_loss_f32(benchmark::State& state) {
  const std::int64_t rows = state.range(0), hidden = state.range(1), vocab = state.range(2);
  Stream stream(Device::cpu());
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 30});
  OwnedTensor x({rows, hidden}, DType::f32, Device::cpu());
  OwnedTensor weight({vocab, hidden}, DType::f32, Device::cpu());
  OwnedTensor d_x(x->shape(), DType::f32, Device::cpu());
  OwnedTensor d_weight(weight->shape(), DType::f32, Device::cpu());
  const OwnedTensor targets({rows}, DType::i32, Device::cpu());
  OwnedTensor token_loss({rows}, DType::f32, Device::cpu());
  fill(0.1, *x, stream);
  fill(0.01, *weight, stream);
  const auto run = [&] {
    output_loss_forward_backward(*x, *weight, *targets, 1e-3, *token_loss, *d_x, *d_weight, scratch,
                                 stream);
  };
  run();  // touches every page
  for (auto _ : state) run();
  const double operations =
      6.0 * static_cast<double>(rows * hidden) * static_cast<double>(vocab * state.iterations());
  state.counters["flop/s"] = {operations, benchmark::Counter::kIsRate};
  state.counters["of_sgemm"] = {operations / benchmarks::matrix_product_rate(),
                                benchmark::Counter::kIsRate};
}
BENCHMARK(output_loss_f32)
    ->Args({4096, 256, 4096})
    ->Args({2048, 1024, 32000})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
