// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/likelihood.h"

#include <algorithm>
#include <numeric>

#include "launch/step/token_batch.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"

namespace polymoe {
namespace {

/// Requests that one rank answers in one pass, padded to the longest of them.
struct Pass {
  std::vector<std::size_t> requests;
  std::int64_t length = 0;  // predictions of each sequence
};

/// Inputs that a request needs: all tokens but the last, as far as the context reaches back.
std::int64_t inputs_of(const LikelihoodRequest& request, std::int64_t context) {
  return std::min(static_cast<std::int64_t>(request.tokens.size()) - 1, context);
}

std::vector<Pass> cut(const std::vector<LikelihoodRequest>& requests, std::int64_t context,
                      std::int64_t tokens_per_batch) {
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto length = [&](std::size_t i) { return inputs_of(requests[i], context); };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return length(a) > length(b); });
  std::vector<Pass> passes;
  for (const std::size_t i : order) {
    const bool fits =
        !passes.empty() &&
        passes.back().length * static_cast<std::int64_t>(passes.back().requests.size() + 1) <=
            tokens_per_batch;
    if (!fits) passes.push_back({.requests = {}, .length = length(i)});
    passes.back().requests.push_back(i);
  }
  return passes;
}

void fill(const std::vector<LikelihoodRequest>& requests, const Pass& pass, std::int32_t* tokens,
          std::int32_t* targets) {
  std::fill_n(tokens, pass.length * static_cast<std::int64_t>(pass.requests.size()), 0);
  std::fill_n(targets, pass.length * static_cast<std::int64_t>(pass.requests.size()), -1);
  for (const std::size_t i : pass.requests) {
    const LikelihoodRequest& request = requests[i];
    const std::int64_t inputs =
        std::min(static_cast<std::int64_t>(request.tokens.size()) - 1, pass.length);
    const std::int32_t* last = request.tokens.data() + request.tokens.size() - 1;
    std::copy(last - inputs, last, tokens);
    const std::int64_t predicted = std::min(request.predicted, inputs);
    std::copy(last + 1 - predicted, last + 1, targets + inputs - predicted);
    tokens += pass.length;
    targets += pass.length;
  }
}

void answer(const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests,
            const Pass& pass, double* likelihoods) {
  ExecutionContext& context = answering.context;
  const Arena::Scope scope(context.arena);
  std::vector<std::int32_t> predicted;
  const auto sequences = static_cast<std::int64_t>(pass.requests.size());
  const auto fill_batch = [&](const TokenRows& to) {
    fill(requests, pass, to.tokens, to.targets);
    predicted.assign(to.targets, to.targets + pass.length * sequences);
  };
  const TokenBatch batch =
      make_batch({.sequences = sequences, .length = pass.length}, fill_batch, context);
  const Tensor losses = answering.model.token_losses(batch, context);
  const std::vector<float> values = host_values<float>(losses, context.stream);
  std::size_t at = 0;
  for (const std::size_t i : pass.requests) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < pass.length; ++j, ++at)
      if (predicted[at] >= 0) sum -= static_cast<double>(values[at]);
    likelihoods[i] = sum;
  }
}

}  // namespace

std::vector<double> log_likelihoods(const AnsweringModel& answering,
                                    const std::vector<LikelihoodRequest>& requests,
                                    const std::function<void(std::int64_t)>& advance) {
  const std::int64_t context = answering.model.config().context;
  const std::vector<Pass> passes =
      cut(requests, context, std::max(answering.tokens_per_batch, context));
  Communicator& world = answering.mesh.world();
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<double> likelihoods(requests.size(), 0.0);
  for (std::size_t first = 0; first < passes.size(); first += ranks) {
    // A rank that has none left joins with no sequences.
    const std::size_t mine = first + static_cast<std::size_t>(world.rank());
    const Pass none{.requests = {}, .length = passes[first].length};
    answer(answering, requests, mine < passes.size() ? passes[mine] : none, likelihoods.data());
    std::int64_t done = 0;
    for (std::size_t i = first; i < std::min(first + ranks, passes.size()); ++i)
      done += static_cast<std::int64_t>(passes[i].requests.size());
    if (advance) advance(done);
  }
  if (!likelihoods.empty())
    world.all_reduce(Tensor(likelihoods.data(), {static_cast<std::int64_t>(likelihoods.size())},
                            DType::f64, Device::cpu()),
                     Reduction::sum, answering.context.stream);
  return likelihoods;
}

}  // namespace polymoe
