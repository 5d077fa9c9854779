// SPDX-License-Identifier: Apache-2.0
// The matrix products on a GPU: time, operations per second, and for the experts' products the
// share of one dense product of equal size measured in the same run. Then what surrounds them in an
// MoE layer, against the bytes that it has to move.
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cuda/device_timing.h"
#include "kernels/cuda/libraries/blas.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/matmul/matmul.h"
#include "kernels/router/router.h"
#include "runtime/arena.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/random.h"

namespace polymoe::benchmarks {
namespace {

constexpr Device gpu{DeviceType::cuda, 0};
constexpr std::int64_t experts = 64, rows = 131072, hidden = 2048, ffn = 1536, top_k = 8;

void print_rate(const std::string& name, double seconds, double operations, double dense_rate) {
  std::printf("%-52s %9.4f ms %8.1f TFLOP/s", name.c_str(), seconds * 1e3,
              operations / seconds * 1e-12);
  if (dense_rate > 0.0) {
    std::printf(" %5.1f %% of dense", 100.0 * operations / seconds / dense_rate);
  }
  std::printf("\n");
  std::fflush(stdout);
}

double dense(Stream& stream, const char* what, std::int64_t m, std::int64_t n, std::int64_t k,
             DType input, DType output) {
  const OwnedTensor a = normal_values({m, k}, input, 1.0, stream);
  const OwnedTensor b = normal_values({n, k}, input, 1.0, stream);
  const OwnedTensor c({m, n}, output, gpu);
  const double seconds = median_seconds(
      stream, [&] { matmul(*a, Transpose::no, *b, Transpose::yes, Write::overwrite, *c, stream); });
  const double operations =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  print_rate(std::string(what) + " " + std::to_string(m) + " x " + std::to_string(n) + " x " +
                 std::to_string(k) + " " + name_of(input) + " to " + name_of(output),
             seconds, operations, 0.0);
  return operations / seconds;
}

// Rows per expert as a softmax of normal logits spreads them; deviation 0 is uniform.
ExpertOffsets spread(double deviation) {
  const RandomStream random(7, "experts");
  std::vector<double> shares;
  double total = 0.0;
  for (std::uint64_t e = 0; e < experts; ++e) {
    shares.push_back(std::exp(deviation * random.normal(e)));
    total += shares.back();
  }
  ExpertOffsets offsets{0};
  double sum = 0.0;
  for (const double share : shares) {
    sum += share;
    offsets.push_back(std::llround(static_cast<double>(rows) * sum / total));
  }
  return offsets;
}

std::byte* at(const Tensor& tensor, std::int64_t elements) {
  return static_cast<std::byte*>(tensor.raw()) +
         static_cast<std::size_t>(elements) * size_of(tensor.dtype());
}

struct Expert {
  OwnedTensor x, pre, up, d_up, d_up_f32;
};

void grouped(Stream& stream, const Expert& t, const ExpertOffsets& offsets, const char* spread_name,
             double dense_rate) {
  cuda::Blas& blas = cuda::Blas::of(stream);
  const auto products = [&](char direction) {
    std::vector<cuda::Product> list;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t first = offsets[static_cast<std::size_t>(e)];
      const std::int64_t count = offsets[static_cast<std::size_t>(e) + 1] - first;
      if (count == 0) continue;
      cuda::Product p{};
      p.input = p.output = DType::bf16;
      std::byte* x = at(*t.x, first * hidden);
      std::byte* pre = at(*t.pre, first * ffn);
      std::byte* up = at(*t.up, e * ffn * hidden);
      if (direction == 'f') {  // pre = x up^T
        p.a = x, p.b = up, p.transpose_b = true, p.c = pre;
        p.m = count, p.n = ffn, p.k = hidden;
      } else if (direction == 'x') {  // d_x = d_pre up
        p.a = pre, p.b = up, p.c = x;
        p.m = count, p.n = hidden, p.k = ffn;
      } else {  // d_up += d_pre^T x
        const Tensor& gradient = direction == 'w' ? *t.d_up : *t.d_up_f32;
        p.a = pre, p.transpose_a = true, p.b = x, p.c = at(gradient, e * ffn * hidden);
        p.accumulate = true, p.output = gradient.dtype();
        p.m = ffn, p.n = hidden, p.k = count;
      }
      list.push_back(p);
    }
    return list;
  };
  const double operations = 2.0 * static_cast<double>(rows) * hidden * ffn;
  for (const auto& [direction, name] : {std::pair{'f', "x up^T"},
                                        {'x', "d_pre up"},
                                        {'w', "d_pre^T x bf16"},
                                        {'g', "d_pre^T x f32"}}) {
    const std::vector<cuda::Product> list = products(direction);
    const double seconds = median_seconds(stream, [&] { blas.multiply(list); });
    print_rate(std::string("experts ") + spread_name + " " + name, seconds, operations, dense_rate);
  }
}

void feed_forward(Stream& stream, const ExpertOffsets& offsets, const char* spread_name,
                  double dense_rate) {
  Arena scratch({.device = gpu, .capacity = std::size_t{2} << 30});
  const auto values = [&](const Shape& shape, double deviation) {
    return normal_values(shape, DType::bf16, deviation, stream);
  };
  const OwnedTensor x = values({rows, hidden}, 1.0), d_y = values({rows, hidden}, 1.0);
  const OwnedTensor up = values({experts, ffn, hidden}, 0.02),
                    down = values({experts, hidden, ffn}, 0.02);
  const OwnedTensor a = normal_values({experts, 4}, DType::f32, 0.3, stream);
  const OwnedTensor weights = normal_values({rows}, DType::f32, 0.3, stream);
  const OwnedTensor pre({rows, ffn}, DType::bf16, gpu), y({rows, hidden}, DType::bf16, gpu);
  const OwnedTensor d_x({rows, hidden}, DType::bf16, gpu), d_weights({rows}, DType::f32, gpu);
  const OwnedTensor d_up(up->shape(), DType::f32, gpu), d_down(down->shape(), DType::f32, gpu);
  const OwnedTensor d_a(a->shape(), DType::f32, gpu);
  const Activation activation{ActivationKind::polynorm, 3, 1e-6};
  const FeedForwardWeights parameters{*up, *down, *a};
  FeedForwardWeights gradients{*d_up, *d_down, *d_a};
  const double forward_operations = 4.0 * static_cast<double>(rows) * hidden * ffn;
  const double forward = median_seconds(stream, [&] {
    feed_forward_forward(activation, parameters, *x, offsets, *weights, *pre, *y, scratch, stream);
  });
  print_rate(std::string("feed_forward_forward ") + spread_name, forward, forward_operations,
             dense_rate);
  const double backward = median_seconds(stream, [&] {
    feed_forward_backward(activation, parameters, *d_y, *x, offsets, *weights, *pre, *d_x,
                          *d_weights, gradients, scratch, stream);
  });
  print_rate(std::string("feed_forward_backward ") + spread_name, backward,
             2.0 * forward_operations, dense_rate);
}

void routing(Stream& stream, double copy_bandwidth) {
  constexpr std::int64_t tokens = rows / top_k;
  Arena arena({.device = gpu, .capacity = std::size_t{1} << 30});
  const RouterShape shape{.tokens = tokens,
                          .experts = experts,
                          .top_k = top_k,
                          .segments = 4,
                          .segment_tokens = tokens / 4,
                          .rule = {.scores = RouterScores::softmax, .normalize = true}};
  const OwnedTensor logits = normal_values({tokens, experts}, DType::f32, 1.0, stream);
  RouterState state = allocate_router_state(shape, DType::f32, arena);
  const auto row = [&](const char* name, double bytes, const std::function<void()>& work) {
    print_share(name, median_seconds(stream, work), bytes, copy_bandwidth);
  };
  const double logits_bytes = static_cast<double>(logits->bytes());
  const double slot_bytes = 4.0 * static_cast<double>(rows);
  row("router_forward", 2.0 * logits_bytes + 2.0 * slot_bytes,
      [&] { router_forward(shape, *logits, {}, state, arena, stream); });
  const OwnedTensor d_weights = normal_values({tokens, top_k}, DType::f32, 1.0, stream);
  row("router_backward", 2.0 * logits_bytes + 3.0 * slot_bytes,
      [&] { router_backward(shape, {}, state, *d_weights, {}, 0.001, *logits, stream); });
  const OwnedTensor counts({experts}, DType::i64, gpu), row_slots({rows}, DType::i32, gpu);
  const OwnedTensor slot_rows({tokens, top_k}, DType::i32, gpu);
  row("dispatch_plan", 3.0 * slot_bytes, [&] {
    dispatch_plan(state.expert_ids, {}, {}, *counts, *row_slots, *slot_rows, arena, stream);
  });
  const OwnedTensor x = normal_values({tokens, hidden}, DType::bf16, 1.0, stream);
  const OwnedTensor dispatched({rows, hidden}, DType::bf16, gpu);
  const double x_bytes = static_cast<double>(x->bytes());
  row("gather_rows 131072 x 2048 bf16", (top_k + 1) * x_bytes,
      [&] { gather_rows(*x, *row_slots, top_k, *dispatched, stream); });
  row("scatter_rows 131072 x 2048 bf16", (top_k + 1) * x_bytes,
      [&] { scatter_rows(*x, *slot_rows, *dispatched, stream); });
  row("sum_rows 131072 x 2048 bf16", (top_k + 1) * x_bytes,
      [&] { sum_rows(*dispatched, *slot_rows, Write::overwrite, *x, stream); });
}

void run() {
  Stream stream(gpu);
  const double copy_bandwidth = device_copy_bandwidth(stream);
  std::printf("%s, device copy %.2f TB/s\n", cuda::describe_device(0).c_str(),
              copy_bandwidth * 1e-12);
  dense(stream, "product", 8192, 8192, 8192, DType::bf16, DType::bf16);
  dense(stream, "product", 8192, 8192, 8192, DType::bf16, DType::f32);
  dense(stream, "product", 4096, 4096, 4096, DType::f32, DType::f32);
  const double rate = dense(stream, "product", rows, ffn, hidden, DType::bf16, DType::bf16);
  const Expert tensors{normal_values({rows, hidden}, DType::bf16, 1.0, stream),
                       normal_values({rows, ffn}, DType::bf16, 1.0, stream),
                       normal_values({experts, ffn, hidden}, DType::bf16, 0.02, stream),
                       normal_values({experts, ffn, hidden}, DType::bf16, 0.02, stream),
                       normal_values({experts, ffn, hidden}, DType::f32, 0.02, stream)};
  for (const auto& [name, deviation] : {std::pair{"uniform", 0.0}, {"skewed", 1.0}}) {
    grouped(stream, tensors, spread(deviation), name, rate);
  }
  for (const auto& [name, deviation] : {std::pair{"uniform", 0.0}, {"skewed", 1.0}}) {
    feed_forward(stream, spread(deviation), name, rate);
  }
  routing(stream, copy_bandwidth);
}

}  // namespace
}  // namespace polymoe::benchmarks

int main() { return polymoe::benchmarks::run_on_gpu(polymoe::benchmarks::run); }
