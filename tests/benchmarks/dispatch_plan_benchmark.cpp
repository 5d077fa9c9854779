// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/dispatch_plan.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "machine_rates.h"
#include "runtime/buffer.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

constexpr std::int64_t tokens = 8192, top_k = 4, experts = 16, width = 1024;

// tokens x top_k slots on random experts, with their plan.
struct Problem {
  Problem() {
    const RandomStream random(1, "experts");
    for (std::int64_t s = 0; s < ids->elements(); ++s) {
      const auto bits = random.bits(static_cast<std::uint64_t>(s / top_k));
      ids->data<std::int32_t>()[s] =
          static_cast<std::int32_t>((bits + static_cast<std::uint64_t>(s % top_k)) % experts);
    }
    fill(1.0, *x, stream);
    fill(1.0, *rows, stream);
    make_plan();
  }
  void make_plan() {
    dispatch_plan(*ids, Tensor(), {}, *counts, *row_slots, *slot_rows, scratch, stream);
  }
  Stream stream{Device::cpu()};
  Arena scratch{{.device = Device::cpu(), .capacity = std::size_t{1} << 24}};
  OwnedTensor ids{{tokens, top_k}, DType::i32, Device::cpu()};
  OwnedTensor slot_rows{{tokens, top_k}, DType::i32, Device::cpu()};
  OwnedTensor row_slots{{tokens * top_k}, DType::i32, Device::cpu()};
  OwnedTensor counts{{experts}, DType::i64, Device::cpu()};
  OwnedTensor x{{tokens, width}, DType::f32, Device::cpu()};
  OwnedTensor rows{{tokens * top_k, width}, DType::f32, Device::cpu()};
};

// Both move each row once, and each token once per slot or once.
void count_bytes(benchmark::State& state, double rows) {
  const double bytes =
      rows * static_cast<double>(tokens * width * state.iterations()) * sizeof(float);
  state.counters["bytes/s"] = {bytes, benchmark::Counter::kIsRate};
  state.counters["of_copy"] = {bytes / benchmarks::copy_bandwidth(), benchmark::Counter::kIsRate};
}

void dispatch_plan_i32(benchmark::State& state) {
  Problem p;
  for (auto _ : state) p.make_plan();
  state.counters["slots/s"] = {static_cast<double>(tokens * top_k * state.iterations()),
                               benchmark::Counter::kIsRate};
}

void gather_rows_f32(benchmark::State& state) {
  Problem p;
  for (auto _ : state) gather_rows(*p.x, *p.row_slots, top_k, *p.rows, p.stream);
  count_bytes(state, 2.0 * top_k);
}

void scatter_rows_f32(benchmark::State& state) {
  Problem p;
  for (auto _ : state) scatter_rows(*p.x, *p.slot_rows, *p.rows, p.stream);
  count_bytes(state, 1.0 + top_k);
}

void sum_rows_f32(benchmark::State& state) {
  Problem p;
  for (auto _ : state) sum_rows(*p.rows, *p.slot_rows, Write::overwrite, *p.x, p.stream);
  count_bytes(state, 1.0 + top_k);
}

BENCHMARK(dispatch_plan_i32)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(gather_rows_f32)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(scatter_rows_f32)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(sum_rows_f32)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polymoe
