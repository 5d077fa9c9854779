// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/matmul/matmul.h"
#include "kernels/router/router.h"
#include "launch/bench/kernel_case_builder.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// [1, coefficients]; undefined where the activation has none.
Tensor starting_coefficients(const Activation& activation, DType dtype, ExecutionContext& context) {
  const std::vector<double> start = initial_coefficients(activation);
  if (start.empty()) return Tensor();
  const std::vector<float> values(start.begin(), start.end());
  const Tensor coefficients =
      context.arena.allocate({1, static_cast<std::int64_t>(start.size())}, dtype);
  set_values(std::span<const float>(values), coefficients, context.stream);
  return coefficients;
}

/// What a feed-forward works on.
struct FeedForwardTensors {
  struct Extents {
    std::int64_t experts, rows, hidden, width;
  };

  FeedForwardTensors(const Activation& activation, const Extents& extents, bool weighted,
                     DType dtype, DType gradient_dtype, ExecutionContext& context) {
    const auto [experts, rows, hidden, width] = extents;
    const DType wide = accumulation_dtype(dtype);
    const std::int64_t pre_width = pre_activation_factor(activation.kind) * width;
    x = varied({rows, hidden}, dtype, 1.0, context);
    y = constant({rows, hidden}, dtype, 0.0, context);
    d_y = varied({rows, hidden}, dtype, 0.1, context);
    pre = varied({rows, pre_width}, dtype, 1.0, context);
    weights = {.up = varied({experts, pre_width, hidden}, dtype, 0.05, context),
               .down = varied({experts, hidden, width}, dtype, 0.05, context),
               .coefficients = starting_coefficients(activation, wide, context)};
    gradients = {.up = constant({experts, pre_width, hidden}, gradient_dtype, 0.0, context),
                 .down = constant({experts, hidden, width}, gradient_dtype, 0.0, context),
                 .coefficients = starting_coefficients(activation, wide, context)};
    if (weighted) {
      row_weights = constant({rows}, wide, 0.25, context);
      d_row_weights = constant({rows}, wide, 0.0, context);
    }
    for (std::int64_t e = 0; e <= experts; ++e) offsets.push_back(e * rows / experts);
  }

  Tensor x, y, d_y, pre;
  FeedForwardWeights weights, gradients;
  Tensor row_weights, d_row_weights;
  ExpertOffsets offsets;
};

}  // namespace

void KernelCases::activation(const std::string& which, const FeedForwardExtents& extents) {
  const Activation activation = model_.activation;
  const std::int64_t rows = extents.rows, width = extents.width;
  const std::int64_t pre_width = width * pre_activation_factor(activation.kind);
  const DType dtype = dtype_, wide = wide_;
  const double in = value_bytes_ * product_of({rows, pre_width});
  const double out = value_bytes_ * product_of({rows, width});
  // The kernel of that name serves the default activation.
  const std::string name =
      (activation.kind == ActivationKind::polynorm ? "poly_norm" : name_of(activation.kind)) +
      (" of " + which);
  const std::string shape = fmt::format("{} x {}", rows, width);
  const bool weighted = extents.weighted;
  const auto row_weights = [=](ExecutionContext& context) {
    return weighted ? constant({rows}, wide, 0.25, context) : Tensor();
  };
  add(name + " forward", shape, {.bytes = in + out}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, pre_width}, dtype, 1.5, context);
    const Tensor y = constant({rows, width}, dtype, 0.0, context);
    const Tensor coefficients = starting_coefficients(activation, wide, context);
    const Tensor weights = row_weights(context);
    return [=, &context] {
      activation_forward(activation, x, coefficients, {0, rows}, weights, y, context.stream);
    };
  });
  // As the feed-forward runs it: the activated rows come with the gradients.
  add(name + " backward", shape, {.bytes = 2.0 * (in + out)}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, pre_width}, dtype, 1.5, context);
    const Tensor d_y = varied({rows, width}, dtype, 0.1, context);
    const Tensor coefficients = starting_coefficients(activation, wide, context);
    const Tensor weights = row_weights(context);
    const ActivationGradients gradients{
        .d_x = constant(x.shape(), dtype, 0.0, context),
        .d_coefficients = starting_coefficients(activation, wide, context),
        .y = constant(d_y.shape(), dtype, 0.0, context),
        .d_row_weights = row_weights(context)};
    return [=, &context] {
      activation_backward(activation, d_y, x, coefficients, {0, rows}, weights, gradients,
                          context.arena, context.stream);
    };
  });
}

void KernelCases::feed_forward(const std::string& which, const FeedForwardExtents& extents) {
  activation(which, extents);
  const Activation activation = model_.activation;
  const std::int64_t hidden = model_.hidden, matrices = pre_activation_factor(activation.kind) + 1;
  const std::int64_t experts = extents.experts, rows = extents.rows, width = extents.width;
  const double wide = value_bytes_ * product_of({rows, matrices - 1, width});
  const double thin = value_bytes_ * product_of({rows, hidden});
  const double weights = value_bytes_ * product_of({experts, matrices, width, hidden});
  const double operations = 2.0 * product_of({rows, matrices, width, hidden});
  const std::string shape =
      fmt::format("{} x {} rows, {} -> {}", experts, rows / experts, hidden, width);
  const bool weighted = extents.weighted;
  const DType dtype = dtype_, gradients = gradients_;
  const double accumulated = 1.0 + 2.0 * gradient_bytes_ / value_bytes_;
  const auto tensors = [=](ExecutionContext& context) {
    return FeedForwardTensors(activation, {experts, rows, hidden, width}, weighted, dtype,
                              gradients, context);
  };
  add("feed_forward of " + which + " forward", shape,
      {.bytes = 2.0 * thin + wide + weights, .operations = operations},
      [=](ExecutionContext& context) {
        return [=, &context, t = tensors(context)] {
          feed_forward_forward(activation, t.weights, t.x, t.offsets, t.row_weights, t.pre, t.y,
                               context.arena, context.stream);
        };
      });
  // The weights are read, and their gradients read and written.
  add("feed_forward of " + which + " backward", shape,
      {.bytes = 3.0 * thin + wide + accumulated * weights, .operations = 2.0 * operations},
      [=](ExecutionContext& context) {
        return [=, &context, t = tensors(context)]() mutable {
          feed_forward_backward(activation, t.weights, t.d_y, t.x, t.offsets, t.row_weights, t.pre,
                                t.y, t.d_row_weights, t.gradients, context.arena, context.stream);
        };
      });
}

void KernelCases::router() {
  const DType wide = wide_;
  const RouterShape shape{.tokens = tokens_,
                          .experts = model_.moe.experts,
                          .top_k = model_.moe.top_k,
                          .segments = sequences_,
                          .segment_tokens = model_.context,
                          .rule = model_.moe.router};
  const std::string text =
      fmt::format("{} tokens, {} of {}", shape.tokens, shape.top_k, shape.experts);
  const double matrix = wide_bytes_ * product_of({shape.tokens, shape.experts});
  product("product of the router", tokens_, shape.experts, model_.hidden, Transpose::no,
          Transpose::yes);
  add("router forward", text, {.bytes = 2.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor logits = varied({shape.tokens, shape.experts}, wide, 1.0, context);
    RouterState state = allocate_router_state(shape, wide, context.arena);
    return [=, &context]() mutable {
      router_forward(shape, logits, Tensor(), state, context.arena, context.stream);
    };
  });
  add("router backward", text, {.bytes = 2.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor logits = varied({shape.tokens, shape.experts}, wide, 1.0, context);
    const Tensor d_logits = constant(logits.shape(), wide, 0.0, context);
    const Tensor d_weights = varied({shape.tokens, shape.top_k}, wide, 0.1, context);
    const Tensor balance = constant({shape.segments, shape.experts}, wide, 0.1, context);
    RouterState state = allocate_router_state(shape, wide, context.arena);
    router_forward(shape, logits, Tensor(), state, context.arena, context.stream);
    return [=, &context] {
      router_backward(shape, logits, state, d_weights, balance, 1e-3, d_logits, context.stream);
    };
  });
}

void KernelCases::exchange() {
  const std::int64_t tokens = tokens_, top_k = model_.moe.top_k, experts = model_.moe.experts;
  const std::int64_t hidden = model_.hidden, slots = tokens * top_k;
  const DType dtype = dtype_;
  struct Plan {
    Tensor ids, counts, row_slots, slot_rows;
  };
  const auto plan = [=](ExecutionContext& context) {
    const Plan p{.ids = random_ids({tokens, top_k}, experts, context),
                 .counts = context.arena.allocate({experts}, DType::i64),
                 .row_slots = context.arena.allocate({slots}, DType::i32),
                 .slot_rows = context.arena.allocate({tokens, top_k}, DType::i32)};
    dispatch_plan(p.ids, Tensor(), {}, p.counts, p.row_slots, p.slot_rows, context.arena,
                  context.stream);
    return p;
  };
  const double row = value_bytes_ * product_of({hidden});
  const auto few = static_cast<double>(tokens), many = static_cast<double>(slots);
  const std::string shape = fmt::format("{} x {} rows of {}", tokens, top_k, hidden);
  add("dispatch plan", fmt::format("{} slots, {} experts", slots, experts),
      {.bytes = 3.0 * static_cast<double>(size_of(DType::i32)) * many},
      [=](ExecutionContext& context) {
        const Plan p = plan(context);
        return [=, &context] {
          dispatch_plan(p.ids, Tensor(), {}, p.counts, p.row_slots, p.slot_rows, context.arena,
                        context.stream);
        };
      });
  add("dispatch scatter", shape, {.bytes = row * (few + many)}, [=](ExecutionContext& context) {
    const Plan p = plan(context);
    const Tensor x = varied({tokens, hidden}, dtype, 1.0, context);
    const Tensor rows = constant({slots, hidden}, dtype, 0.0, context);
    return [=, &context] { scatter_rows(x, p.slot_rows, rows, context.stream); };
  });
  add("combine sum", shape, {.bytes = row * (few + many)}, [=](ExecutionContext& context) {
    const Plan p = plan(context);
    const Tensor rows = varied({slots, hidden}, dtype, 1.0, context);
    const Tensor y = constant({tokens, hidden}, dtype, 0.0, context);
    return [=, &context] { sum_rows(rows, p.slot_rows, Write::overwrite, y, context.stream); };
  });
}

}  // namespace polymoe
