// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "kernels/activation.h"
#include "kernels/dispatch_plan.h"
#include "kernels/feed_forward.h"
#include "kernels/router.h"
#include "launch/bench_kernel_cases.h"

namespace polymoe {
namespace {

/// [1, coefficients]; undefined where the activation has none.
Tensor starting_coefficients(const Activation& activation, ExecutionContext& context) {
  const std::vector<double> start = initial_coefficients(activation);
  if (start.empty()) return Tensor();
  Tensor coefficients = constant({1, static_cast<std::int64_t>(start.size())}, 0.0, context);
  std::transform(start.begin(), start.end(), coefficients.data<float>(),
                 [](double value) { return static_cast<float>(value); });
  return coefficients;
}

/// What a feed-forward works on.
struct FeedForwardTensors {
  struct Extents {
    std::int64_t experts, rows, hidden, width;
  };

  FeedForwardTensors(const Activation& activation, const Extents& extents, bool weighted,
                     ExecutionContext& context) {
    const auto [experts, rows, hidden, width] = extents;
    const std::int64_t wide = pre_activation_factor(activation.kind) * width;
    x = varied({rows, hidden}, 1.0, context);
    y = constant({rows, hidden}, 0.0, context);
    d_y = varied({rows, hidden}, 0.1, context);
    pre = varied({rows, wide}, 1.0, context);
    weights = {.up = varied({experts, wide, hidden}, 0.05, context),
               .down = varied({experts, hidden, width}, 0.05, context),
               .coefficients = starting_coefficients(activation, context)};
    gradients = {.up = constant({experts, wide, hidden}, 0.0, context),
                 .down = constant({experts, hidden, width}, 0.0, context),
                 .coefficients = starting_coefficients(activation, context)};
    if (weighted) {
      row_weights = constant({rows}, 0.25, context);
      d_row_weights = constant({rows}, 0.0, context);
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
  const std::int64_t wide = width * pre_activation_factor(activation.kind);
  const double in = value_bytes * product_of({rows, wide});
  const double out = value_bytes * product_of({rows, width});
  // The kernel of that name serves the default activation.
  const std::string name =
      (activation.kind == ActivationKind::polynorm ? "poly_norm" : name_of(activation.kind)) +
      (" of " + which);
  const std::string shape = fmt::format("{} x {}", rows, width);
  add(name + " forward", shape, {.bytes = in + out}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, wide}, 1.5, context);
    const Tensor y = constant({rows, width}, 0.0, context);
    const Tensor coefficients = starting_coefficients(activation, context);
    return [=, &context] {
      activation_forward(activation, x, coefficients, {0, rows}, y, context.stream);
    };
  });
  add(name + " backward", shape, {.bytes = 2.0 * in + out}, [=](ExecutionContext& context) {
    const Tensor x = varied({rows, wide}, 1.5, context);
    const Tensor d_x = constant(x.shape(), 0.0, context);
    const Tensor d_y = varied({rows, width}, 0.1, context);
    const Tensor coefficients = starting_coefficients(activation, context);
    const Tensor gradient = starting_coefficients(activation, context);
    return [=, &context] {
      activation_backward(activation, d_y, x, coefficients, {0, rows}, d_x, gradient, context.arena,
                          context.stream);
    };
  });
}

void KernelCases::feed_forward(const std::string& which, const FeedForwardExtents& extents) {
  activation(which, extents);
  const Activation activation = model_.activation;
  const std::int64_t hidden = model_.hidden, matrices = pre_activation_factor(activation.kind) + 1;
  const std::int64_t experts = extents.experts, rows = extents.rows, width = extents.width;
  const double wide = value_bytes * product_of({rows, matrices - 1, width});
  const double thin = value_bytes * product_of({rows, hidden});
  const double weights = value_bytes * product_of({experts, matrices, width, hidden});
  const double operations = 2.0 * product_of({rows, matrices, width, hidden});
  const std::string shape =
      fmt::format("{} x {} rows, {} -> {}", experts, rows / experts, hidden, width);
  const bool weighted = extents.weighted;
  const auto tensors = [=](ExecutionContext& context) {
    return FeedForwardTensors(activation, {experts, rows, hidden, width}, weighted, context);
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
      {.bytes = 3.0 * thin + wide + 3.0 * weights, .operations = 2.0 * operations},
      [=](ExecutionContext& context) {
        return [=, &context, t = tensors(context)]() mutable {
          feed_forward_backward(activation, t.weights, t.d_y, t.x, t.offsets, t.row_weights, t.pre,
                                t.y, t.d_row_weights, t.gradients, context.arena, context.stream);
        };
      });
}

void KernelCases::router() {
  const RouterShape shape{.tokens = tokens_,
                          .experts = model_.moe.experts,
                          .top_k = model_.moe.top_k,
                          .segments = sequences_,
                          .segment_tokens = model_.context,
                          .scores = model_.moe.scores,
                          .normalize = model_.moe.normalize};
  const std::string text =
      fmt::format("{} tokens, {} of {}", shape.tokens, shape.top_k, shape.experts);
  const double matrix = value_bytes * product_of({shape.tokens, shape.experts});
  product("product of the router", tokens_, shape.experts, model_.hidden, Transpose::no,
          Transpose::yes);
  add("router forward", text, {.bytes = 2.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor logits = varied({shape.tokens, shape.experts}, 1.0, context);
    RouterState state = allocate_router_state(shape, DType::f32, context.arena);
    return [=, &context]() mutable {
      router_forward(shape, logits, Tensor(), state, context.arena, context.stream);
    };
  });
  add("router backward", text, {.bytes = 2.0 * matrix}, [=](ExecutionContext& context) {
    const Tensor logits = varied({shape.tokens, shape.experts}, 1.0, context);
    const Tensor d_logits = constant(logits.shape(), 0.0, context);
    const Tensor d_weights = varied({shape.tokens, shape.top_k}, 0.1, context);
    const Tensor balance = constant({shape.segments, shape.experts}, 0.1, context);
    RouterState state = allocate_router_state(shape, DType::f32, context.arena);
    router_forward(shape, logits, Tensor(), state, context.arena, context.stream);
    return [=, &context] {
      router_backward(shape, logits, state, d_weights, balance, 1e-3, d_logits, context.stream);
    };
  });
}

void KernelCases::exchange() {
  const std::int64_t tokens = tokens_, top_k = model_.moe.top_k, experts = model_.moe.experts;
  const std::int64_t hidden = model_.hidden, slots = tokens * top_k;
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
  const double row = value_bytes * product_of({hidden});
  const auto few = static_cast<double>(tokens), many = static_cast<double>(slots);
  const std::string shape = fmt::format("{} x {} rows of {}", tokens, top_k, hidden);
  add("dispatch plan", fmt::format("{} slots, {} experts", slots, experts),
      {.bytes = 3.0 * value_bytes * many}, [=](ExecutionContext& context) {
        const Plan p = plan(context);
        return [=, &context] {
          dispatch_plan(p.ids, Tensor(), {}, p.counts, p.row_slots, p.slot_rows, context.arena,
                        context.stream);
        };
      });
  add("dispatch gather", shape, {.bytes = row * (few + many)}, [=](ExecutionContext& context) {
    const Plan p = plan(context);
    const Tensor x = varied({tokens, hidden}, 1.0, context);
    const Tensor rows = constant({slots, hidden}, 0.0, context);
    return [=, &context] { gather_rows(x, p.row_slots, top_k, rows, context.stream); };
  });
  add("combine sum", shape, {.bytes = row * (few + many)}, [=](ExecutionContext& context) {
    const Plan p = plan(context);
    const Tensor rows = varied({slots, hidden}, 1.0, context);
    const Tensor y = constant({tokens, hidden}, 0.0, context);
    return [=, &context] { sum_rows(rows, p.slot_rows, Write::overwrite, y, context.stream); };
  });
}

}  // namespace polymoe
