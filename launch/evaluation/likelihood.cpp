// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/likelihood.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <span>
#include <tuple>
#include <unordered_map>

#include "launch/config/step_shares.h"
#include "launch/step/token_batch.h"
#include "runtime/copy.h"

namespace polymoe {
namespace {

/// Requests that one rank answers in one pass.
struct Pass {
  std::vector<std::size_t> requests;
  std::int64_t length = 0;  // inputs of the longest
};

/// Inputs that a request needs: all tokens but the last, as far as the context reaches back.
std::int64_t inputs_of(const LikelihoodRequest& request, std::int64_t context) {
  return std::min(static_cast<std::int64_t>(request.tokens.size()) - 1, context);
}

/// Requests in the order in which they are answered: by length, those of one group one behind the
/// other.
std::vector<std::size_t> ordered(const std::vector<LikelihoodRequest>& requests,
                                 std::int64_t context) {
  std::map<std::int64_t, std::int64_t> longest;  // of each group
  for (const LikelihoodRequest& request : requests) {
    std::int64_t& length = longest[request.group];
    length = std::max(length, inputs_of(request, context));
  }
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) {
    return std::tuple(-longest[requests[i].group], requests[i].group,
                      -inputs_of(requests[i], context));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
  return order;
}

/// `alone`: a pass holds sequences of one length only.
std::vector<Pass> cut(const std::vector<LikelihoodRequest>& requests, std::int64_t context,
                      std::int64_t tokens_per_batch, bool alone) {
  std::vector<std::size_t> order = ordered(requests, context);
  if (alone)
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return inputs_of(requests[a], context) > inputs_of(requests[b], context);
    });
  std::vector<Pass> passes;
  for (const std::size_t i : order) {
    const std::int64_t inputs = inputs_of(requests[i], context);
    // A pass may begin within a group, with a request that is shorter than those of the next.
    const auto longest = [&](const Pass& pass) { return std::max(pass.length, inputs); };
    const auto with_it = [](const Pass& pass) {
      return static_cast<std::int64_t>(pass.requests.size()) + 1;
    };
    const bool fits = !passes.empty() &&
                      longest(passes.back()) * with_it(passes.back()) <= tokens_per_batch &&
                      (!alone || passes.back().length == inputs);
    if (!fits) passes.emplace_back();
    passes.back().length = longest(passes.back());
    passes.back().requests.push_back(i);
  }
  return passes;
}

/// A pass on the host, see SharedTokenBatch. What requests have in common at their beginnings is
/// there once.
struct HostBatch {
  HostBatch(const std::vector<LikelihoodRequest>& requests, const Pass& pass) {
    row_of.assign(static_cast<std::size_t>(pass.length) * pass.requests.size(), 0);
    std::unordered_map<std::uint64_t, std::int32_t> known;  // row by the row before it and token
    std::size_t first_place = 0;
    for (const std::size_t i : pass.requests) {
      const LikelihoodRequest& request = requests[i];
      const std::int64_t inputs = inputs_of(request, pass.length);
      const std::int32_t* token = request.tokens.data() + request.tokens.size() - 1 - inputs;
      const std::int64_t predicted = std::min(request.predicted, inputs);
      std::int32_t row = -1;
      for (std::int64_t j = 0; j < inputs; ++j, ++token) {
        const std::uint64_t step =
            (static_cast<std::uint64_t>(static_cast<std::uint32_t>(row)) << 32U) |
            static_cast<std::uint32_t>(*token);
        const auto [found, is_new] = known.emplace(step, static_cast<std::int32_t>(tokens.size()));
        row = found->second;
        const std::size_t place = first_place + static_cast<std::size_t>(j);
        if (is_new) {
          tokens.push_back(*token);
          place_of.push_back(static_cast<std::int32_t>(place));
        }
        row_of[place] = row;
        if (j >= inputs - predicted) {
          predicting.push_back(row);
          targets.push_back(token[1]);
        }
      }
      predictions.push_back(predicted);
      first_place += static_cast<std::size_t>(pass.length);
    }
  }

  std::vector<std::int32_t> tokens, row_of, place_of, predicting, targets;
  std::vector<std::int64_t> predictions;  // of each request
};

/// The losses of the predictions of a pass, in their order.
std::vector<float> losses_of(const HostBatch& host, const Pass& pass, LanguageModel& model,
                             ExecutionContext& context) {
  const auto moved = [&](const std::vector<std::int32_t>& values) {
    const Tensor tensor =
        context.arena.allocate({static_cast<std::int64_t>(values.size())}, DType::i32);
    set_values(std::span(values), tensor, context.stream);
    return tensor;
  };
  const SharedTokenBatch batch{
      .rows = {.sequences = static_cast<std::int64_t>(pass.requests.size()),
               .length = pass.length,
               .row_of = moved(host.row_of),
               .place_of = moved(host.place_of)},
      .tokens = moved(host.tokens),
      .predicting = moved(host.predicting),
      .targets = moved(host.targets)};
  return host_values<float>(model.shared_token_losses(batch, context), context.stream);
}

/// For models whose router drops tokens by sequence: every sequence must be complete.
std::vector<float> losses_of_whole(const HostBatch& host, const Pass& pass, LanguageModel& model,
                                   ExecutionContext& context) {
  std::vector<std::size_t> places;  // of the predictions
  const auto fill = [&](const TokenRows& to) {
    std::fill_n(to.targets, host.row_of.size(), -1);
    for (std::size_t i = 0; i < host.row_of.size(); ++i)
      to.tokens[i] = host.tokens[static_cast<std::size_t>(host.row_of[i])];
    std::size_t next = 0;
    for (std::size_t s = 0; s < pass.requests.size(); ++s) {
      const auto end = static_cast<std::size_t>(pass.length) * (s + 1);
      const auto count = static_cast<std::size_t>(host.predictions[s]);
      for (std::size_t place = end - count; place < end; ++place) {
        to.targets[place] = host.targets[next++];
        places.push_back(place);
      }
    }
  };
  const TokenBatch batch = make_batch(
      {.sequences = static_cast<std::int64_t>(pass.requests.size()), .length = pass.length}, fill,
      context);
  const std::vector<float> all =
      host_values<float>(model.token_losses(batch, context), context.stream);
  std::vector<float> losses;
  for (const std::size_t place : places) losses.push_back(all[place]);
  return losses;
}

bool drops_tokens(const ModelConfig& config) {
  return config.moe.experts > 0 && config.moe.capacity_factor > 0.0;
}

void answer(const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests,
            const Pass& pass, double* likelihoods) {
  ExecutionContext& context = answering.context;
  const Arena::Scope scope(context.arena);
  const HostBatch host(requests, pass);
  const std::vector<float> losses = drops_tokens(answering.model.config())
                                        ? losses_of_whole(host, pass, answering.model, context)
                                        : losses_of(host, pass, answering.model, context);
  std::size_t at = 0;
  for (std::size_t s = 0; s < pass.requests.size(); ++s) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < host.predictions[s]; ++j) sum -= static_cast<double>(losses[at++]);
    likelihoods[pass.requests[s]] = sum;
  }
}

}  // namespace

std::int64_t scoring_tokens(const Config& config, int ranks, Device device) {
  const std::int64_t context = config.model.context;
  if (device.type == DeviceType::cuda) return shares_of(config, ranks).largest() * context;
  constexpr std::int64_t most = 8192;
  return std::max(context, std::min(most, config.train.global_batch * context));
}

std::optional<std::vector<double>> log_likelihoods(
    const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests,
    const std::function<void(std::int64_t)>& advance) {
  const std::int64_t context = answering.model.config().context;
  const std::vector<Pass> passes =
      cut(requests, context, std::max(answering.tokens_per_batch, context),
          drops_tokens(answering.model.config()));
  Communicator& world = answering.mesh.world();
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<double> likelihoods(requests.size(), 0.0);
  for (std::size_t first = 0; first < passes.size(); first += ranks) {
    if (answering.leave && answering.leave()) return std::nullopt;
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
