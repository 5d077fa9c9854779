// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/output_loss.h"
#include "kernels/reduction.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "launch/bench_kernel_cases.h"
#include "launch/memory_plan.h"
#include "runtime/random.h"

namespace polymoe {

double product_of(std::initializer_list<std::int64_t> extents) {
  double product = 1.0;
  for (const std::int64_t extent : extents) product *= static_cast<double>(extent);
  return product;
}

Tensor varied(const Shape& shape, double scale, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, DType::f32);
  auto* values = tensor.data<float>();
  const std::int64_t count = tensor.elements();
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const auto bits = static_cast<std::uint32_t>(static_cast<std::uint64_t>(i) * 2654435761U);
    values[i] = static_cast<float>(scale * (static_cast<double>(bits) / 2147483648.0 - 1.0));
  }
  return tensor;
}

Tensor constant(const Shape& shape, double value, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, DType::f32);
  fill(value, tensor, context.stream);
  return tensor;
}

Tensor random_ids(const Shape& shape, std::int64_t below, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, DType::i32);
  const RandomStream random(1, "bench ids");
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    tensor.data<std::int32_t>()[i] = static_cast<std::int32_t>(
        random.bits(static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(below));
  return tensor;
}

KernelCases::KernelCases(const Config& config, int ranks)
    : model_(config.model),
      tokens_(config.train.micro_batch * config.model.context),
      sequences_(config.train.micro_batch),
      expert_parallel_(config.parallel.expert),
      owned_(static_cast<std::int64_t>(plan_memory(config, ranks, 1).optimizer / 8)) {}

std::vector<KernelCase> KernelCases::all() {
  linear();
  norms();
  attention();
  bool mixture = false, dense = false;
  for (std::int64_t layer = 0; layer < model_.layers; ++layer)
    (model_.is_moe_layer(layer) ? mixture : dense) = true;
  if (dense) feed_forward("dense", {.rows = tokens_, .width = model_.dense_width()});
  if (mixture) {
    router();
    exchange();
    // Every rank of the group receives as many rows as it sends.
    feed_forward("experts", {.experts = model_.moe.experts / expert_parallel_,
                             .rows = tokens_ * model_.moe.top_k,
                             .width = model_.expert_width(),
                             .weighted = true});
    if (model_.moe.shared_experts > 0)
      feed_forward("shared", {.rows = tokens_, .width = model_.shared_width()});
  }
  output();
  optimizer();
  return std::move(cases_);
}

void KernelCases::product(const std::string& name, std::int64_t m, std::int64_t n, std::int64_t k,
                          Transpose transpose_a, Transpose transpose_b) {
  const WorkFloor floor{
      .bytes = value_bytes * (product_of({m, k}) + product_of({k, n}) + product_of({m, n})),
      .operations = 2.0 * product_of({m, n, k})};
  add(name, fmt::format("{} x {} x {}", m, n, k), floor, [=](ExecutionContext& context) {
    const bool a_turned = transpose_a == Transpose::yes, b_turned = transpose_b == Transpose::yes;
    const Tensor a = varied(a_turned ? Shape{k, m} : Shape{m, k}, 1.0, context);
    const Tensor b = varied(b_turned ? Shape{n, k} : Shape{k, n}, 0.1, context);
    const Tensor c = constant({m, n}, 0.0, context);
    return [=, &context] {
      matmul(a, transpose_a, b, transpose_b, Write::overwrite, c, context.stream);
    };
  });
}

void KernelCases::linear() {
  const std::int64_t hidden = model_.hidden;
  product("product y = x w^T (q, o)", tokens_, hidden, hidden, Transpose::no, Transpose::yes);
  product("product d_x = d_y w (q, o)", tokens_, hidden, hidden, Transpose::no, Transpose::no);
  product("product d_w = d_y^T x (q, o)", hidden, hidden, tokens_, Transpose::yes, Transpose::no);
}

void KernelCases::norms() {
  const std::int64_t rows = tokens_, hidden = model_.hidden;
  const double matrix = value_bytes * product_of({rows, hidden});
  const std::string shape = fmt::format("{} x {}", rows, hidden);
  const double epsilon = model_.norm_epsilon;
  add("rms_norm forward with sum", shape, {.bytes = 4.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, hidden}, 1.0, context);
    const Tensor sum = constant({rows, hidden}, 0, context);
    const Tensor delta = varied({rows, hidden}, 0.5, context);
    const Tensor y = constant({rows, hidden}, 0, context);
    const Tensor weight = constant({hidden}, 1.0, context);
    const Tensor inv_rms = constant({rows}, 0.0, context);
    return [=, &context] {
      add_rms_norm_forward(x, delta, weight, epsilon, sum, y, inv_rms, context.stream);
    };
  });
  add("rms_norm backward", shape, {.bytes = 4.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, hidden}, 1.0, context);
    const Tensor d_y = varied({rows, hidden}, 0.1, context);
    const Tensor d_x = constant({rows, hidden}, 0.0, context);
    const Tensor weight = constant({hidden}, 1.0, context);
    const Tensor d_weight = constant({hidden}, 0, context);
    const Tensor inv_rms = constant({rows}, 1.7, context);
    return [=, &context] {
      rms_norm_backward(d_y, x, inv_rms, weight, Write::accumulate, d_x, d_weight, context.arena,
                        context.stream);
    };
  });
}

void KernelCases::attention() {
  const AttentionShape shape{sequences_,   model_.context,           model_.context,
                             model_.heads, model_.key_value_heads(), model_.head_dim()};
  const std::string text = fmt::format("{} x {}, {} heads of {}", shape.batch, shape.query_length,
                                       shape.heads, shape.head_dim);
  const double q = value_bytes * product_of({tokens_, shape.heads, shape.head_dim});
  const double kv = value_bytes * product_of({tokens_, shape.kv_heads, shape.head_dim});
  const double pairs = 0.5 * product_of({shape.query_length, shape.query_length + 1});
  // Of one product of the scores' size, the part that the causal mask leaves.
  const double scores = 2.0 * pairs * product_of({shape.batch, shape.heads, shape.head_dim});
  const RotaryPositions positions{.sequence_length = model_.context, .theta = model_.rope_theta};
  struct Tensors {
    Tensor q, k, v, out, log_sum_exp;
  };
  const auto inputs = [=, tokens = tokens_](ExecutionContext& context) {
    return Tensors{
        .q = varied({tokens, shape.heads, shape.head_dim}, 1.0, context),
        .k = varied({tokens, shape.kv_heads, shape.head_dim}, 1.0, context),
        .v = varied({tokens, shape.kv_heads, shape.head_dim}, 1.0, context),
        .out = constant({tokens, shape.heads, shape.head_dim}, 0.0, context),
        .log_sum_exp = constant({shape.batch, shape.heads, shape.query_length}, 0.0, context)};
  };
  add("rotary", fmt::format("{} x {} x {}", tokens_, shape.heads, shape.head_dim),
      {.bytes = 2.0 * q}, [=, tokens = tokens_](ExecutionContext& context) {
        const Tensor x = varied({tokens, shape.heads, shape.head_dim}, 1.0, context);
        return [=, &context] { rotary_forward(positions, x, context.stream); };
      });
  add("attention forward", text, {.bytes = 2.0 * (q + kv), .operations = 2.0 * scores},
      [=](ExecutionContext& context) {
        const Tensors t = inputs(context);
        return [=, &context] {
          attention_forward(shape, t.q, t.k, t.v, t.out, t.log_sum_exp, context.arena,
                            context.stream);
        };
      });
  add("attention backward", text, {.bytes = 4.0 * (q + kv), .operations = 5.0 * scores},
      [=](ExecutionContext& context) {
        const Tensors t = inputs(context);
        const Tensor d_out = varied(t.q.shape(), 0.1, context);
        const Tensor d_q = constant(t.q.shape(), 0.0, context);
        const Tensor d_k = constant(t.k.shape(), 0.0, context);
        const Tensor d_v = constant(t.k.shape(), 0.0, context);
        attention_forward(shape, t.q, t.k, t.v, t.out, t.log_sum_exp, context.arena,
                          context.stream);
        return [=, &context] {
          attention_backward(shape, d_out, t.q, t.k, t.v, t.out, t.log_sum_exp, d_q, d_k, d_v,
                             context.arena, context.stream);
        };
      });
}

void KernelCases::output() {
  const std::int64_t rows = tokens_, hidden = model_.hidden, vocab = model_.vocab;
  const double thin = value_bytes * product_of({rows, hidden});
  const double table = value_bytes * product_of({vocab, hidden});
  add("output loss forward + backward", fmt::format("{} x {} x {}", rows, vocab, hidden),
      {.bytes = 2.0 * thin + 3.0 * table, .operations = 6.0 * product_of({rows, vocab, hidden})},
      [=](ExecutionContext& context) {
        const Tensor x = varied({rows, hidden}, 1.0, context);
        const Tensor weight = varied({vocab, hidden}, 0.05, context);
        const Tensor targets = random_ids({rows}, vocab, context);
        const Tensor loss = constant({rows}, 0.0, context);
        const Tensor d_x = constant(x.shape(), 0.0, context);
        const Tensor d_weight = constant(weight.shape(), 0.0, context);
        return [=, &context] {
          output_loss_forward_backward(x, weight, targets, 1e-3, loss, d_x, d_weight, context.arena,
                                       context.stream);
        };
      });
}

void KernelCases::optimizer() {
  constexpr std::int64_t enough = std::int64_t{1} << 25;  // to be out of every cache
  const std::int64_t count = std::min(owned_, enough);
  add("adamw", fmt::format("{} of {} parameters", count, owned_),
      {.bytes = 7.0 * value_bytes * static_cast<double>(count)}, [=](ExecutionContext& context) {
        const Tensor gradient = varied({count}, 0.01, context);
        const Tensor parameter = varied({count}, 1.0, context);
        const Tensor m = constant({count}, 0.0, context);
        const Tensor v = constant({count}, 0.0, context);
        const AdamWStep step{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 10};
        return [=, &context] { adamw(step, gradient, parameter, m, v, context.stream); };
      });
}

std::vector<KernelCase> kernel_cases(const Config& config, int ranks) {
  return KernelCases(config, ranks).all();
}

}  // namespace polymoe
