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
#include "launch/evaluation/scoring_batch.h"
#include "launch/evaluation/scoring_pass.h"
#include "launch/inference/answering_model.h"
#include "launch/step/pass_limits.h"
#include "launch/step/token_batch.h"
#include "moe/language_model.h"
#include "moe/model_config.h"
#include "parallel/communication/collective.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// The losses of the predictions of a pass, in their order; not waited for.
Tensor losses_of(const ScoringBatch& host, LanguageModel& model, ExecutionContext& context) {
  const auto moved = [&](const std::vector<std::int32_t>& values) {
    const Tensor tensor =
        context.arena.allocate({static_cast<std::int64_t>(values.size())}, DType::i32);
    set_values(std::span(values), tensor, context.stream);
    return tensor;
  };
  const SharedTokenBatch batch{.rows = {.groups = host.groups,
                                        .row_of = moved(host.row_of),
                                        .query_of = moved(host.query_of),
                                        .place_of = moved(host.place_of),
                                        .starts = moved(host.starts)},
                               .tokens = moved(host.tokens),
                               .predicting = moved(host.predicting),
                               .targets = moved(host.targets)};
  return model.shared_token_losses(batch, context);
}

/// Passes that a rank works off: what the host does for one is done while a GPU computes the one
/// before.
class PassWork {
 public:
  PassWork(const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests,
           const ScoringCut& cut)
      : answering_(answering),
        requests_(requests),
        cut_(cut),
        whole_(drops_tokens(answering.model.config())),
        likelihoods_(requests.size(), 0.0) {}

  ScoringBatch prepare(const ScoringPass& pass) const {
    return ScoringBatch(requests_, pass, cut_);
  }
  Tensor start(const ScoringBatch& host, const ScoringPass& pass) {
    if (whole_) return start_whole(host, pass);
    tokens_ += std::ssize(host.tokens);
    return losses_of(host, answering_.model, answering_.context);
  }
  void finish(const ScoringBatch& host, const ScoringPass& pass, const Tensor& losses) {
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
  /// The losses of all places of a pass whose sequences are complete; not waited for.
  Tensor start_whole(const ScoringBatch& host, const ScoringPass& pass) {
    const std::int64_t places = pass.sequences() * pass.length;
    tokens_ += places;
    const auto fill = [&](const TokenRows& to) {
      std::fill_n(to.targets, places, -1);
      auto target = host.targets.begin();
      for (std::size_t s = 0; s < pass.requests.size(); ++s) {
        const std::int64_t begin = static_cast<std::int64_t>(s) * pass.length;
        std::ranges::copy(inputs_of(requests_[pass.requests[s]], cut_.context), to.tokens + begin);
        const std::int64_t count = host.predictions[s];
        std::copy_n(target, count, to.targets + begin + pass.length - count);
        target += count;
      }
    };
    return answering_.model.token_losses(
        make_batch({.sequences = pass.sequences(), .length = pass.length}, fill,
                   answering_.context),
        answering_.context);
  }

  const AnsweringModel& answering_;
  const std::vector<LikelihoodRequest>& requests_;
  const ScoringCut& cut_;
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
  const ScoringCut cut{
      .context = config.context, .limits = answering.limits, .equal_lengths = drops_tokens(config)};
  const std::vector<ScoringPass> passes = cut_into_passes(requests, cut);
  const Communicator& world = answering.mesh.world();
  const auto ranks = static_cast<std::size_t>(world.size());
  // A rank that has none left joins with no sequences.
  const auto mine = [&](std::size_t first) {
    const std::size_t own = first + static_cast<std::size_t>(world.rank());
    return own < passes.size() ? passes[own]
                               : ScoringPass{.requests = {}, .length = passes[first].length};
  };
  PassWork work(answering, requests, cut);
  std::optional<ScoringBatch> next;
  std::int64_t first_pass_tokens = 0;
  double first_pass_seconds = 0.0;
  for (std::size_t first = 0; first < passes.size(); first += ranks) {
    if (answering.leave && answering.leave()) return std::nullopt;
    const Arena::Scope scope(answering.context.arena);
    const ScoringPass pass = mine(first);
    const ScoringBatch host = next ? std::move(*next) : work.prepare(pass);
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
