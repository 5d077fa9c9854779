// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/warm_up.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "launch/step/pass_limits.h"
#include "moe/language_model.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

/// Sequences as long as questions are.
constexpr std::int64_t usual_length = 128;
/// Products of fewer rows are of kernels that fewer rows yet have too.
constexpr std::int64_t fewest_tokens = 64;

/// `sequences` of `length` tokens that have nothing in common; every token is predicted.
void compute(LanguageModel& model, std::int64_t sequences, std::int64_t length,
             ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  const std::int64_t rows = sequences * length;
  const auto filled = [&](const std::function<std::int64_t(std::int64_t)>& value) {
    std::vector<std::int32_t> values;
    for (std::int64_t i = 0; i < rows; ++i) values.push_back(static_cast<std::int32_t>(value(i)));
    const Tensor tensor = context.arena.allocate({rows}, DType::i32);
    set_values(std::span<const std::int32_t>(values), tensor, context.stream);
    return tensor;
  };
  const Tensor own = filled([](std::int64_t i) { return i; });
  const std::int64_t vocab = model.config().vocab;
  const Tensor tokens = filled([&](std::int64_t i) { return i % vocab; });
  model.shared_token_losses(
      {.rows = {.groups = {{.sequences = sequences, .length = length}},
                .row_of = own,
                .query_of = own,
                .place_of = own,
                .starts = filled([&](std::int64_t i) { return i / length * length; })},
       .tokens = tokens,
       .predicting = own,
       .targets = tokens},
      context);
}

}  // namespace

void warm_up(LanguageModel& model, const PassLimits& limits, ExecutionContext& context) {
  Timeline unseen;  // the marks of a step are not for this
  ExecutionContext own{context.stream, context.arena, unseen};
  const UntimedProducts untimed(own.stream);
  const std::int64_t length = std::min(usual_length, model.config().context);
  const auto pass = [&](std::int64_t tokens) {
    const std::int64_t each = std::min(length, tokens);
    if (each > 0) compute(model, tokens / each, each, own);
  };
  // While the parameters are zeros a few experts get all tokens: the rows that experts have of a
  // large pass come in a smaller one.
  for (std::int64_t tokens = std::min(limits.tokens, limits.places);; tokens /= 2) {
    pass(tokens);
    if (tokens <= fewest_tokens) break;
    pass(tokens / 4 * 3);
  }
  own.stream.synchronize();
}

}  // namespace polymoe
