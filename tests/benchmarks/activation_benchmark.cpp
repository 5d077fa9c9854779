// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"

namespace polymoe {
namespace {

constexpr std::int64_t rows = 8192, width = 1536;

struct Problem {
  explicit Problem(ActivationKind kind)
      : activation{.kind = kind},
        factor(pre_activation_factor(kind)),
        x({rows, factor * width}, DType::f32, Device::cpu()),
        d_x(x->shape(), DType::f32, Device::cpu()),
        y({rows, width}, DType::f32, Device::cpu()),
        a({1, coefficient_count(activation)}, DType::f32, Device::cpu()),
        d_a(a->shape(), DType::f32, Device::cpu()) {
    for (std::int64_t i = 0; i < x->elements(); ++i) {
      x->data<float>()[i] = 2.0F * std::sin(static_cast<float>(i % 4099));
    }
    fill(0.25, *y, stream);
    fill(0.0, *d_x, stream);
    const std::vector<double> start = initial_coefficients(activation);
    for (std::size_t i = 0; i < start.size(); ++i) {
      a->data<float>()[i] = static_cast<float>(start[i]);
    }
  }
  void count_bytes(benchmark::State& state, double tensors) const {
    const double bytes = tensors * 4.0 * rows * width * static_cast<double>(state.iterations());
    state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
    state.counters["of_copy"] = {bytes / benchmarks::copy_bandwidth(), benchmark::Counter::kIsRate};
  }
  Activation activation;
  std::int64_t factor;
  std::vector<std::int64_t> offsets{0, rows};
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 26}};
  OwnedTensor x, d_x, y, a, d_a;
};

void forward(benchmark::State& state, ActivationKind kind) {
  Problem p(kind);
  for (auto _ : state) activation_forward(p.activation, *p.x, *p.a, p.offsets, {}, *p.y, p.stream);
  p.count_bytes(state, static_cast<double>(p.factor) + 1.0);
}

void backward(benchmark::State& state, ActivationKind kind) {
  Problem p(kind);
  for (auto _ : state) {
    activation_backward(p.activation, *p.y, *p.x, *p.a, p.offsets, {}, {*p.d_x, *p.d_a, {}, {}},
                        p.scratch, p.stream);
  }
  p.count_bytes(state, 2.0 * static_cast<double>(p.factor) + 1.0);
}

// Registered by hand because the kinds are a list at run time.
const bool registered = [] {
  for (const ActivationKind kind : all_activations()) {
    const std::string name = name_of(kind);
    benchmark::RegisterBenchmark((name + "_forward_f32").c_str(), forward, kind)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((name + "_backward_f32").c_str(), backward, kind)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  return true;
}();

}  // namespace
}  // namespace polymoe
