// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/kernel_cases.h"
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "kernels/attention/attention.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/matmul/matmul.h"
#include "kernels/output_loss/output_loss.h"
#include "kernels/random_normal/random_normal.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/rotary/rotary.h"
#include "launch/bench/kernel_case_builder.h"
#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/machine/device_choice.h"
#include "launch/step/memory_plan.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/random.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// Parameters whose optimizer state a rank owns.
std::int64_t owned_elements(const Config& config, const PlannedLayout& layout) {
  const bool master = compute_dtype(config.train.precision, layout.backend) == DType::bf16;
  const std::size_t each =
      optimizer_state_kinds.size() * size_of(config.optimizer.adamw.moment_dtype) +
      (master ? size_of(DType::u16) : 0);
  return static_cast<std::int64_t>(plan_memory(config, layout).optimizer / each);
}

}  // namespace

double product_of(std::initializer_list<std::int64_t> extents) {
  double product = 1.0;
  for (const std::int64_t extent : extents) product *= static_cast<double>(extent);
  return product;
}

Tensor varied(const Shape& shape, DType dtype, double scale, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, dtype);
  random_normal(RandomStream(1, "bench values"), {.scale = scale}, tensor, context.stream);
  return tensor;
}

Tensor constant(const Shape& shape, DType dtype, double value, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, dtype);
  fill(value, tensor, context.stream);
  return tensor;
}

Tensor random_ids(const Shape& shape, std::int64_t below, ExecutionContext& context) {
  const Tensor tensor = context.arena.allocate(shape, DType::i32);
  const RandomStream random(1, "bench ids");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tensor.elements()));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(random.bits(i) % static_cast<std::uint64_t>(below));
  set_values(std::span<const std::int32_t>(ids), tensor, context.stream);
  return tensor;
}

KernelCases::KernelCases(const Config& config, const PlannedLayout& layout)
    : model_(config.model),
      dtype_(compute_dtype(config.train.precision, layout.backend)),
      wide_(accumulation_dtype(dtype_)),
      gradients_(gradient_dtype(config, layout.backend)),
      moments_(config.optimizer.adamw.moment_dtype),
      value_bytes_(static_cast<double>(size_of(dtype_))),
      wide_bytes_(static_cast<double>(size_of(wide_))),
      gradient_bytes_(static_cast<double>(size_of(gradients_))),
      tokens_(shares_of(config, layout.ranks).largest() * config.model.context),
      sequences_(shares_of(config, layout.ranks).largest()),
      expert_parallel_(config.parallel.expert),
      owned_(owned_elements(config, layout)) {}

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
  const DType dtype = dtype_;
  const WorkFloor floor{
      .bytes = value_bytes_ * (product_of({m, k}) + product_of({k, n}) + product_of({m, n})),
      .operations = 2.0 * product_of({m, n, k})};
  add(name, fmt::format("{} x {} x {}", m, n, k), floor, [=](ExecutionContext& context) {
    const bool a_turned = transpose_a == Transpose::yes, b_turned = transpose_b == Transpose::yes;
    const Tensor a = varied(a_turned ? Shape{k, m} : Shape{m, k}, dtype, 1.0, context);
    const Tensor b = varied(b_turned ? Shape{n, k} : Shape{k, n}, dtype, 0.1, context);
    const Tensor c = constant({m, n}, dtype, 0.0, context);
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
  const DType dtype = dtype_, wide = wide_, gradients = gradients_;
  const std::int64_t rows = tokens_, hidden = model_.hidden;
  const double matrix = value_bytes_ * product_of({rows, hidden});
  const std::string shape = fmt::format("{} x {}", rows, hidden);
  const double epsilon = model_.norm_epsilon;
  add("rms_norm forward with sum", shape, {.bytes = 4.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, hidden}, dtype, 1.0, context);
    const Tensor sum = constant({rows, hidden}, dtype, 0, context);
    const Tensor delta = varied({rows, hidden}, dtype, 0.5, context);
    const Tensor y = constant({rows, hidden}, dtype, 0, context);
    const Tensor weight = constant({hidden}, dtype, 1.0, context);
    const Tensor inv_rms = constant({rows}, wide, 0.0, context);
    return [=, &context] {
      add_rms_norm_forward(x, delta, weight, epsilon, sum, y, inv_rms, context.stream);
    };
  });
  add("rms_norm backward", shape, {.bytes = 4.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, hidden}, dtype, 1.0, context);
    const Tensor d_y = varied({rows, hidden}, dtype, 0.1, context);
    const Tensor d_x = constant({rows, hidden}, dtype, 0.0, context);
    const Tensor weight = constant({hidden}, dtype, 1.0, context);
    const Tensor d_weight = constant({hidden}, gradients, 0, context);
    const Tensor inv_rms = constant({rows}, wide, 1.7, context);
    return [=, &context] {
      rms_norm_backward(d_y, x, inv_rms, weight, Write::accumulate, d_x, d_weight, context.arena,
                        context.stream);
    };
  });
}

void KernelCases::attention() {
  const DType dtype = dtype_, wide = wide_, gradients = gradients_;
  const AttentionShape shape{sequences_,   model_.context,           model_.context,
                             model_.heads, model_.key_value_heads(), model_.head_dim()};
  const std::string text = fmt::format("{} x {}, {} heads of {}", shape.batch, shape.query_length,
                                       shape.heads, shape.head_dim);
  const double q = value_bytes_ * product_of({tokens_, shape.heads, shape.head_dim});
  const double kv = value_bytes_ * product_of({tokens_, shape.kv_heads, shape.head_dim});
  const double pairs = 0.5 * product_of({shape.query_length, shape.query_length + 1});
  // Of one product of the scores' size, the part that the causal mask leaves.
  const double scores = 2.0 * pairs * product_of({shape.batch, shape.heads, shape.head_dim});
  const RotaryPositions positions{.sequence_length = model_.context, .theta = model_.rope_theta};
  struct Tensors {
    Tensor q, k, v, out, log_sum_exp;
  };
  const auto inputs = [=, tokens = tokens_](ExecutionContext& context) {
    return Tensors{.q = varied({tokens, shape.heads, shape.head_dim}, dtype, 1.0, context),
                   .k = varied({tokens, shape.kv_heads, shape.head_dim}, dtype, 1.0, context),
                   .v = varied({tokens, shape.kv_heads, shape.head_dim}, dtype, 1.0, context),
                   .out = constant({tokens, shape.heads, shape.head_dim}, dtype, 0.0, context),
                   .log_sum_exp = constant({shape.batch, shape.heads, shape.query_length}, wide,
                                           0.0, context)};
  };
  const std::string heads = fmt::format("{} x {} x {}", tokens_, shape.heads, shape.head_dim);
  const Shape q_shape{tokens_, shape.heads, shape.head_dim};
  if (model_.qk_norm) {
    const Shape width{shape.heads * shape.head_dim}, rows{tokens_};
    const double epsilon = model_.norm_epsilon;
    add("norm_rotary forward", heads, {.bytes = 2.0 * q}, [=](ExecutionContext& context) {
      const Tensor x = varied(q_shape, dtype, 1.0, context);
      const Tensor y = constant(q_shape, dtype, 0.0, context);
      const Tensor weight = constant(width, dtype, 1.0, context);
      const Tensor inv_rms = constant(rows, wide, 0.0, context);
      return [=, &context] {
        norm_rotary_forward(positions, x, weight, epsilon, y, inv_rms, context.stream);
      };
    });
    add("norm_rotary backward", heads, {.bytes = 3.0 * q}, [=](ExecutionContext& context) {
      const Tensor x = varied(q_shape, dtype, 1.0, context);
      const Tensor d_y = varied(q_shape, dtype, 0.1, context);
      const Tensor d_x = constant(q_shape, dtype, 0.0, context);
      const Tensor weight = constant(width, dtype, 1.0, context);
      const Tensor d_weight = constant(width, gradients, 0.0, context);
      const Tensor inv_rms = constant(rows, wide, 1.0, context);
      return [=, &context] {
        norm_rotary_backward(positions, d_y, x, inv_rms, weight, d_x, d_weight, context.arena,
                             context.stream);
      };
    });
  } else {
    add("rotary", heads, {.bytes = 2.0 * q}, [=](ExecutionContext& context) {
      const Tensor x = varied(q_shape, dtype, 1.0, context);
      return [=, &context] { rotary_forward(positions, x, context.stream); };
    });
  }
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
        const Tensor d_out = varied(t.q.shape(), dtype, 0.1, context);
        const Tensor d_q = constant(t.q.shape(), dtype, 0.0, context);
        const Tensor d_k = constant(t.k.shape(), dtype, 0.0, context);
        const Tensor d_v = constant(t.k.shape(), dtype, 0.0, context);
        attention_forward(shape, t.q, t.k, t.v, t.out, t.log_sum_exp, context.arena,
                          context.stream);
        return [=, &context] {
          attention_backward(shape, d_out, t.q, t.k, t.v, t.out, t.log_sum_exp, d_q, d_k, d_v,
                             context.arena, context.stream);
        };
      });
}

void KernelCases::output() {
  const DType dtype = dtype_, wide = wide_, gradients = gradients_;
  const std::int64_t rows = tokens_, hidden = model_.hidden, vocab = model_.vocab;
  const double thin = value_bytes_ * product_of({rows, hidden});
  const double table = value_bytes_ * product_of({vocab, hidden});
  add("output loss forward + backward", fmt::format("{} x {} x {}", rows, vocab, hidden),
      {.bytes = 2.0 * thin + table + 2.0 * table * gradient_bytes_ / value_bytes_,
       .operations = 6.0 * product_of({rows, vocab, hidden})},
      [=](ExecutionContext& context) {
        const Tensor x = varied({rows, hidden}, dtype, 1.0, context);
        const Tensor weight = varied({vocab, hidden}, dtype, 0.05, context);
        const Tensor targets = random_ids({rows}, vocab, context);
        const Tensor loss = constant({rows}, wide, 0.0, context);
        const Tensor d_x = constant(x.shape(), dtype, 0.0, context);
        const Tensor d_weight = constant(weight.shape(), gradients, 0.0, context);
        return [=, &context] {
          output_loss_forward_backward(x, weight, targets, 1e-3, loss, d_x, d_weight, context.arena,
                                       context.stream);
        };
      });
}

void KernelCases::optimizer() {
  constexpr std::int64_t enough = std::int64_t{1} << 25;  // to be out of every cache
  const std::int64_t count = std::min(owned_, enough);
  const DType dtype = dtype_, wide = wide_, gradients = gradients_, moments = moments_;
  // The gradient is read; the parameter, whole or in two parts, and its state are read and written.
  const bool splits = dtype != wide;
  const double bytes = gradient_bytes_ + 2.0 * wide_bytes_ +
                       2.0 * static_cast<double>(optimizer_state_kinds.size() * size_of(moments));
  add("adamw", fmt::format("{} of {} parameters", count, owned_),
      {.bytes = bytes * static_cast<double>(count)}, [=](ExecutionContext& context) {
        const Tensor gradient = varied({count}, gradients, 0.01, context);
        const Tensor parameter = varied({count}, dtype, 1.0, context);
        OptimizerState state;
        for (Tensor& one : state) one = constant({count}, moments, 0.0, context);
        const Tensor low = splits ? context.arena.allocate({count}, DType::u16) : Tensor();
        if (splits) set_zero(low, context.stream);
        const AdamWStep step{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 10};
        return [=, &context] { adamw(step, gradient, parameter, state, low, context.stream); };
      });
}

std::vector<KernelCase> kernel_cases(const Config& config, const PlannedLayout& layout) {
  return KernelCases(config, layout).all();
}

}  // namespace polymoe
