// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/likelihood.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "launch/data/token_rows.h"
#include "launch/evaluation/scoring_pass.h"
#include "launch/inference/answering_model.h"
#include "launch/step/pass_limits.h"
#include "launch/step/token_batch.h"
#include "moe/language_model.h"
#include "parallel/communication/collective.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// How many inputs each request of a pass has in common with one before it. Requests are in the
/// order of their inputs: that is what it has in common with the last of them.
std::vector<std::int64_t> shared_inputs(const std::vector<LikelihoodRequest>& requests,
                                        const ScoringPass& pass, std::int64_t context) {
  std::vector<std::int64_t> shared;
  std::span<const std::int32_t> before;
  for (const std::size_t i : pass.requests) {
    const std::span<const std::int32_t> inputs = inputs_of(requests[i], context);
    shared.push_back(std::ranges::mismatch(inputs, before).in1 - inputs.begin());
    before = inputs;
  }
  return shared;
}

/// Beginnings that sequences have in common count in multiples of this, see SharedRows::known.
constexpr std::int64_t known_step = 8;

/// A pass on the host, see SharedTokenBatch. What requests have in common at their beginnings is
/// there once.
struct HostBatch {
  HostBatch(const std::vector<LikelihoodRequest>& requests, const ScoringPass& pass,
            std::int64_t context)
      : length(pass.length) {
    row_of.assign(static_cast<std::size_t>(pass.length * pass.sequences()), 0);
    const std::vector<std::int64_t> shared = shared_inputs(requests, pass, context);
    known = pass.sequences() > 1 ? length : 0;
    for (std::size_t s = 0; s < pass.requests.size(); ++s) {
      const std::span<const std::int32_t> inputs = inputs_of(requests[pass.requests[s]], context);
      add(requests[pass.requests[s]], inputs, static_cast<std::int64_t>(s), shared[s]);
      // One that has nothing of its own has no queries.
      if (s > 0 && shared[s] < std::ssize(inputs)) known = std::min(known, shared[s]);
    }
    known = std::min(known, length - 1) / known_step * known_step;
    for (std::int32_t& place : place_of) place = query_at(place);
    for (std::int64_t s = 0; s < pass.sequences(); ++s) {
      const auto sequence = row_of.begin() + s * length;
      query_of.insert(query_of.end(), sequence + (s == 0 ? 0 : known), sequence + length);
    }
  }

  std::int64_t length = 0, known = 0;  // as in SharedRows
  std::vector<std::int32_t> tokens, row_of, query_of, place_of, starts, predicting, targets;
  std::vector<std::int64_t> predictions;  // of each request

 private:
  /// The request's inputs as a sequence, of which `shared` have the rows of the one before.
  void add(const LikelihoodRequest& request, std::span<const std::int32_t> inputs,
           std::int64_t sequence, std::int64_t shared) {
    const std::int64_t first_place = sequence * length;
    std::int32_t* const rows = row_of.data() + first_place;
    if (shared > 0) std::copy_n(rows - length, shared, rows);
    for (std::int64_t j = shared; j < std::ssize(inputs); ++j) {
      const auto row = static_cast<std::int32_t>(tokens.size());
      rows[j] = row;
      tokens.push_back(inputs[static_cast<std::size_t>(j)]);
      place_of.push_back(static_cast<std::int32_t>(first_place + j));
      starts.push_back(row - static_cast<std::int32_t>(j));
    }
    const std::int64_t predicted = std::min(request.predicted, std::ssize(inputs));
    const std::int32_t* const target = request.tokens.data() + request.tokens.size();
    predicting.insert(predicting.end(), rows + std::ssize(inputs) - predicted,
                      rows + std::ssize(inputs));
    targets.insert(targets.end(), target - predicted, target);
    predictions.push_back(predicted);
  }
  std::int32_t query_at(std::int32_t place) const {
    const std::int64_t sequence = place / length;
    return static_cast<std::int32_t>(place - sequence * known);
  }
};

/// The losses of the predictions of a pass, in their order; not waited for.
Tensor losses_of(const HostBatch& host, const ScoringPass& pass, LanguageModel& model,
                 ExecutionContext& context) {
  const auto moved = [&](const std::vector<std::int32_t>& values) {
    const Tensor tensor =
        context.arena.allocate({static_cast<std::int64_t>(values.size())}, DType::i32);
    set_values(std::span(values), tensor, context.stream);
    return tensor;
  };
  const SharedTokenBatch batch{.rows = {.sequences = pass.sequences(),
                                        .length = pass.length,
                                        .known = host.known,
                                        .row_of = moved(host.row_of),
                                        .query_of = moved(host.query_of),
                                        .place_of = moved(host.place_of),
                                        .starts = moved(host.starts)},
                               .tokens = moved(host.tokens),
                               .predicting = moved(host.predicting),
                               .targets = moved(host.targets)};
  return model.shared_token_losses(batch, context);
}

/// The losses of all places of a pass whose sequences are complete; not waited for.
Tensor losses_of_whole(const HostBatch& host, const ScoringPass& pass, LanguageModel& model,
                       ExecutionContext& context) {
  const auto fill = [&](const TokenRows& to) {
    std::fill_n(to.targets, host.row_of.size(), -1);
    for (std::size_t i = 0; i < host.row_of.size(); ++i)
      to.tokens[i] = host.tokens[static_cast<std::size_t>(host.row_of[i])];
    std::size_t next = 0;
    for (std::size_t s = 0; s < pass.requests.size(); ++s) {
      const auto end = static_cast<std::size_t>(pass.length) * (s + 1);
      for (auto place = end - static_cast<std::size_t>(host.predictions[s]); place < end; ++place)
        to.targets[place] = host.targets[next++];
    }
  };
  return model.token_losses(
      make_batch({.sequences = pass.sequences(), .length = pass.length}, fill, context), context);
}

/// Passes that a rank works off: what the host does for one is done while a GPU computes the one
/// before.
class PassWork {
 public:
  PassWork(const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests)
      : answering_(answering),
        requests_(requests),
        whole_(drops_tokens(answering.model.config())),
        likelihoods_(requests.size(), 0.0) {}

  HostBatch prepare(const ScoringPass& pass) const {
    return HostBatch(requests_, pass, answering_.model.config().context);
  }
  Tensor start(const HostBatch& host, const ScoringPass& pass) {
    tokens_ += static_cast<std::int64_t>(whole_ ? host.row_of.size() : host.tokens.size());
    return (whole_ ? losses_of_whole : losses_of)(host, pass, answering_.model, answering_.context);
  }
  void finish(const HostBatch& host, const ScoringPass& pass, const Tensor& losses) {
    const std::vector<float> values = host_values<float>(losses, answering_.context.stream);
    std::size_t next = 0;
    for (std::size_t s = 0; s < pass.requests.size(); ++s) {
      const auto count = static_cast<std::size_t>(host.predictions[s]);
      // A whole sequence has a loss at every place, the predictions' at its end.
      if (whole_) next = static_cast<std::size_t>(pass.length) * (s + 1) - count;
      double sum = 0.0;
      for (std::size_t j = 0; j < count; ++j) sum -= static_cast<double>(values[next++]);
      likelihoods_[pass.requests[s]] = sum;
    }
  }

  std::int64_t tokens() const { return tokens_; }

  /// Of all ranks; of this one's tokens so many were in its first pass.
  Likelihoods result(std::int64_t first_pass_tokens) {
    likelihoods_.push_back(static_cast<double>(first_pass_tokens));
    likelihoods_.push_back(static_cast<double>(tokens_));
    answering_.mesh.world().all_reduce(
        Tensor(likelihoods_.data(), {static_cast<std::int64_t>(likelihoods_.size())}, DType::f64,
               Device::cpu()),
        Reduction::sum, answering_.context.stream);
    Likelihoods result{.values = std::move(likelihoods_)};
    const auto take_last = [&] {
      const auto tokens = static_cast<std::int64_t>(result.values.back());
      result.values.pop_back();
      return tokens;
    };
    result.computed_tokens = take_last();
    result.first_pass_tokens = take_last();
    return result;
  }

 private:
  const AnsweringModel& answering_;
  const std::vector<LikelihoodRequest>& requests_;
  const bool whole_;
  std::vector<double> likelihoods_;
  std::int64_t tokens_ = 0;
};

}  // namespace

std::optional<Likelihoods> log_likelihoods(const AnsweringModel& answering,
                                           const std::vector<LikelihoodRequest>& requests,
                                           const std::function<void(std::int64_t)>& advance) {
  const auto begin = std::chrono::steady_clock::now();
  const ModelConfig& config = answering.model.config();
  const std::vector<ScoringPass> passes =
      cut_into_passes(requests, {.context = config.context,
                                 .limits = answering.limits,
                                 .equal_lengths = drops_tokens(config)});
  const Communicator& world = answering.mesh.world();
  const auto ranks = static_cast<std::size_t>(world.size());
  // A rank that has none left joins with no sequences.
  const auto mine = [&](std::size_t first) {
    const std::size_t own = first + static_cast<std::size_t>(world.rank());
    return own < passes.size() ? passes[own]
                               : ScoringPass{.requests = {}, .length = passes[first].length};
  };
  PassWork work(answering, requests);
  std::optional<HostBatch> next;
  std::int64_t first_pass_tokens = 0;
  double first_pass_seconds = 0.0;
  for (std::size_t first = 0; first < passes.size(); first += ranks) {
    if (answering.leave && answering.leave()) return std::nullopt;
    const Arena::Scope scope(answering.context.arena);
    const ScoringPass pass = mine(first);
    const HostBatch host = next ? std::move(*next) : work.prepare(pass);
    const Tensor losses = work.start(host, pass);
    next.reset();
    if (first + ranks < passes.size()) next.emplace(work.prepare(mine(first + ranks)));
    work.finish(host, pass, losses);
    if (first == 0) {
      first_pass_tokens = work.tokens();
      first_pass_seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    std::int64_t done = 0;
    for (std::size_t i = first; i < std::min(first + ranks, passes.size()); ++i)
      done += static_cast<std::int64_t>(passes[i].requests.size());
    if (advance) advance(done);
  }
  Likelihoods result = work.result(first_pass_tokens);
  result.first_pass_seconds = first_pass_seconds;
  return result;
}

}  // namespace polymoe
