// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router.h"

#include <benchmark/benchmark.h>

#include "kernels/reduction/reduction.h"
#include "runtime/buffer.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

constexpr std::int64_t tokens = 16384, segment = 512;

// Random logits of `tokens` tokens; range(0) experts, range(1) of them chosen.
struct Problem {
  explicit Problem(const benchmark::State& state)
      : shape{.tokens = tokens,
              .experts = state.range(0),
              .top_k = state.range(1),
              .segments = tokens / segment,
              .segment_tokens = segment},
        logits({tokens, shape.experts}, DType::f32, Device::cpu()),
        d_logits(logits->shape(), DType::f32, Device::cpu()),
        d_weights({tokens, shape.top_k}, DType::f32, Device::cpu()),
        balance({shape.segments, shape.experts}, DType::f32, Device::cpu()),
        router(allocate_router_state(shape, DType::f32, arena)) {
    const RandomStream random(1, "logits");
    for (std::int64_t i = 0; i < logits->elements(); ++i) {
      logits->data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
    }
    fill(0.5, *d_weights, stream);
    fill(0.1, *balance, stream);
  }
  Stream stream{Device::cpu()};
  Arena arena{{.device = Device::cpu(), .capacity = std::size_t{1} << 28}};
  RouterShape shape;
  OwnedTensor logits, d_logits, d_weights, balance;
  RouterState router;
};

void count_tokens(benchmark::State& state) {
  state.counters["tokens/s"] = {static_cast<double>(tokens * state.iterations()),
                                benchmark::Counter::kIsRate};
}

void router_forward_f32(benchmark::State& state) {
  Problem p(state);
  for (auto _ : state) {
    router_forward(p.shape, *p.logits, Tensor(), p.router, p.arena, p.stream);
  }
  count_tokens(state);
}

void router_backward_f32(benchmark::State& state) {
  Problem p(state);
  router_forward(p.shape, *p.logits, Tensor(), p.router, p.arena, p.stream);
  for (auto _ : state) {
    router_backward(p.shape, Tensor(), p.router, *p.d_weights, *p.balance, 1e-3, *p.d_logits,
                    p.stream);
  }
  count_tokens(state);
}

BENCHMARK(router_forward_f32)->Args({16, 4})->Args({64, 8})->UseRealTime();
BENCHMARK(router_backward_f32)->Args({16, 4})->Args({64, 8})->UseRealTime();

}  // namespace
}  // namespace polymoe
