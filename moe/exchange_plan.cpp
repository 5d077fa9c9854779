// SPDX-License-Identifier: Apache-2.0
#include "moe/exchange_plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/dispatch_plan/rank_rows.h"
#include "kernels/feed_forward/feed_forward.h"
#include "parallel/communication/communicator.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

using Counts = std::vector<std::int64_t>;
std::int64_t sum_of(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

ExpertOffsets offsets_of(std::span<const std::int64_t> rows) {
  ExpertOffsets offsets(1, 0);
  for (const std::int64_t of_expert : rows) offsets.push_back(offsets.back() + of_expert);
  return offsets;
}

void wait(Pending& pending, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange_wait);
  pending.wait(context.stream);
}

Tensor by_slot(const Tensor& tensor) { return tensor.view({tensor.elements(), 1}); }

}  // namespace

struct ExchangePlanner::HostCounts {
  Counts leaving, arriving;        // rows per rank
  Counts expert_rows, early_rows;  // of this rank's experts: all, and of own tokens
  std::int64_t leaving_slots = 0;  // of own tokens, with experts of other ranks
};

ExchangePlanner::ExchangePlanner(Communicator& group, std::int64_t experts, double row_budget,
                                 std::int64_t layer)
    : group_(group),
      experts_(experts),
      experts_per_rank_(experts / group.size()),
      row_budget_(row_budget),
      layer_(layer) {}

/// What an exchange is known by: layer, experts and top-k in one number.
std::int64_t ExchangePlanner::signature(std::int64_t top_k) const {
  return (layer_ << 40) | (experts_ << 16) | top_k;
}

/// announced [2 + experts here]: the peer's signature, its rows, and its slots for each expert.
void ExchangePlanner::check_announced(int peer, std::span<const std::int64_t> announced,
                                      std::int64_t top_k) const {
  const std::string who = "rank " + std::to_string(peer) + " of the expert group announces ";
  if (announced[0] != signature(top_k)) {
    const auto text = [](std::int64_t value) {
      return "layer " + std::to_string(value >> 40) + " (" +
             std::to_string((value >> 16) & 0xffffff) + " experts, top-" +
             std::to_string(value & 0xffff) + ")";
    };
    throw CommunicationError(who + "the rows of " + text(announced[0]) + ", rank " +
                             std::to_string(group_.rank()) + " is in " + text(signature(top_k)) +
                             ": the ranks have lost step");
  }
  const std::int64_t rows = announced[1], slots = sum_of(announced.subspan(2));
  const std::int64_t most = rows * std::min(top_k, experts_per_rank_);
  if (rows < 0 || slots < rows || slots > most)
    throw CommunicationError(who + std::to_string(rows) + " rows for " + std::to_string(slots) +
                             " slots in layer " + std::to_string(layer_) + "; must be from " +
                             std::to_string(rows) + " to " + std::to_string(most));
}

std::int64_t ExchangePlanner::most_rows_of_source(const ExchangePlan& plan) const {
  return std::min(plan.top_k, experts_per_rank_);
}

/// As many tokens of every rank send as many rows to every rank.
std::int64_t ExchangePlanner::budget_rows(std::int64_t tokens, std::int64_t top_k) const {
  return static_cast<std::int64_t>(std::ceil(row_budget_ * static_cast<double>(tokens * top_k)));
}

ExchangePlanner::HostCounts ExchangePlanner::planned_counts(std::int64_t tokens,
                                                            std::int64_t top_k) const {
  const std::int64_t ranks = group_.size(), slots = tokens * top_k;
  const std::int64_t rows = ranks == 1 ? slots : budget_rows(tokens, top_k);
  HostCounts counts;
  counts.leaving.assign(static_cast<std::size_t>(ranks), tokens);
  counts.leaving[static_cast<std::size_t>(group_.rank())] = 0;
  counts.arriving = counts.leaving;
  const std::int64_t experts = experts_per_rank_;
  for (std::int64_t e = 0; e < experts; ++e) {
    counts.expert_rows.push_back(rows * (e + 1) / experts - rows * e / experts);
    counts.early_rows.push_back(counts.expert_rows.back() / ranks);
  }
  return counts;
}

/// counts [experts + ranks]: kept slots per expert, then leaving rows per rank.
ExchangePlanner::HostCounts ExchangePlanner::exchange_counts(const Tensor& counts,
                                                             std::int64_t tokens,
                                                             std::int64_t top_k,
                                                             ExecutionContext& context) const {
  const Timeline::Scope phase(context.timeline, Phase::exchange_wait);
  Stream& stream = context.stream;
  if (stream.device().type == DeviceType::meta) return planned_counts(tokens, top_k);
  const Counts own = host_values<std::int64_t>(counts, stream);
  const auto ranks = static_cast<std::size_t>(group_.size());
  const auto per_rank = static_cast<std::size_t>(experts_per_rank_);
  const auto self = static_cast<std::size_t>(group_.rank());
  const std::span<const std::int64_t> of_experts(own.data(), ranks * per_rank);
  const auto here = of_experts.subspan(self * per_rank, per_rank);
  HostCounts result;
  result.early_rows.assign(here.begin(), here.end());
  if (ranks == 1) {
    result.leaving = result.arriving = {0};
    result.expert_rows = result.early_rows;
    return result;
  }
  result.leaving_slots = sum_of(of_experts) - sum_of(here);
  // To each rank: what this is, its rows, then the slots of each of its experts.
  const std::size_t per_peer = 2 + per_rank;
  Counts send, received(ranks * per_peer);
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back(signature(top_k));
    send.push_back(own[ranks * per_rank + r]);
    const auto part = of_experts.subspan(r * per_rank, per_rank);
    send.insert(send.end(), part.begin(), part.end());
  }
  group_.all_to_all_counts(send, received);
  result.leaving.assign(own.end() - static_cast<std::ptrdiff_t>(ranks), own.end());
  result.expert_rows.assign(per_rank, 0);
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto announced = std::span<const std::int64_t>(received).subspan(r * per_peer, per_peer);
    if (r != self) check_announced(static_cast<int>(r), announced, top_k);
    result.arriving.push_back(r == self ? 0 : announced[1]);
    for (std::size_t e = 0; e < per_rank; ++e) result.expert_rows[e] += announced[2 + e];
  }
  return result;
}

void ExchangePlanner::begin(const Tensor& expert_ids, const Tensor& weights,
                            const ExpertCapacity& capacity, ExchangePlan& plan,
                            ExecutionContext& context) const {
  Arena& arena = context.arena;
  Stream& stream = context.stream;
  const std::int64_t slots = expert_ids.elements(), ranks = group_.size();
  const bool alone = ranks == 1;
  plan.tokens = expert_ids.dim(0);
  plan.top_k = expert_ids.dim(1);
  const Tensor counts = arena.allocate({alone ? experts_ : experts_ + ranks}, DType::i64);
  plan.counts = counts.rows(0, experts_);
  const Tensor sorted_slots = arena.allocate({slots}, DType::i32);
  Tensor slot_rows = arena.allocate(expert_ids.shape(), DType::i32), row_slots = sorted_slots;
  if (alone) {
    dispatch_plan(expert_ids, weights, capacity, plan.counts, sorted_slots, slot_rows, arena,
                  stream);
  } else {
    plan.home_slots = slot_rows;
    plan.home_rows = arena.allocate(expert_ids.shape(), DType::i32);
    const Arena::Scope scope(arena);
    const Tensor leaving_ranks = arena.allocate(expert_ids.shape(), DType::i32);
    dispatch_plan(expert_ids, weights, capacity, plan.counts, sorted_slots, plan.home_slots, arena,
                  stream);
    find_leaving_ranks({.experts_per_rank = experts_per_rank_, .own = group_.rank()}, expert_ids,
                       plan.home_slots, plan.home_slots, leaving_ranks, stream);
    group_slots(leaving_ranks, 0, counts.rows(experts_, experts_ + ranks), sorted_slots,
                plan.home_rows, arena, stream);
  }
  HostCounts host = exchange_counts(counts, plan.tokens, plan.top_k, context);
  plan.leaving_rows = std::move(host.leaving);
  plan.arriving_rows = std::move(host.arriving);
  plan.leaving = sum_of(plan.leaving_rows);
  plan.arriving = sum_of(plan.arriving_rows);
  plan.received = sum_of(host.expert_rows);
  plan.leaving_slot_count = host.leaving_slots;
  // Ranks without tokens of their own work off others'.
  const std::int64_t tokens = std::max(plan.tokens, divide_up(plan.sources(), ranks));
  const std::int64_t budget = budget_rows(tokens, plan.top_k);
  plan.at_once = alone || plan.received <= budget;
  plan.round_rows = plan.at_once ? plan.received : std::max(budget, most_rows_of_source(plan));
  if (!alone) {
    plan.leaving_slots = sorted_slots.rows(0, plan.leaving);
    slot_rows = arena.allocate({plan.sources(), plan.top_k}, DType::i32);
    row_slots = arena.allocate({slot_rows.elements()}, DType::i32);
  }
  plan.row_weights =
      arena.allocate({slot_rows.elements(), 1}, weights.dtype()).rows(0, plan.received);
  plan.rounds.assign(1, {.begin = 0,
                         .end = plan.sources(),
                         .first_row = 0,
                         .offsets = offsets_of(host.expert_rows),
                         .early = std::move(host.early_rows),
                         .row_slots = row_slots,
                         .slot_rows = slot_rows});
  if (alone) plan.rounds[0].row_slots = row_slots.rows(0, plan.received);
}

ExchangePlanner::Ids ExchangePlanner::send_ids(const ExchangePlan& plan, const Tensor& weights,
                                               ExecutionContext& context) const {
  Ids ids{.experts = {}, .weights = weights, .experts_pending = {}, .weights_pending = {}};
  if (group_.size() == 1) return ids;
  Arena& arena = context.arena;
  const auto send = [&](const Tensor& own, Tensor& all) {
    all = arena.allocate({plan.sources(), plan.top_k}, own.dtype());
    copy(own, all.rows(0, plan.tokens), context.stream);
    const Tensor leaving = arena.allocate({plan.leaving, plan.top_k}, own.dtype());
    gather_rows(own, plan.leaving_slots, plan.top_k, leaving, context.stream);
    return group_.start_all_to_all(leaving, plan.leaving_rows,
                                   all.rows(plan.tokens, plan.sources()), plan.arriving_rows,
                                   context.stream);
  };
  ids.experts_pending = send(plan.home_slots, ids.experts);  // which holds the kept experts so far
  ids.weights_pending = send(weights, ids.weights);
  return ids;
}

void ExchangePlanner::finish(ExchangePlan& plan, Ids& ids, ExecutionContext& context) const {
  Stream& stream = context.stream;
  if (group_.size() > 1) {
    wait(ids.experts_pending, context);
    make_rounds(plan, ids.experts, context);
    find_home_rows({.experts_per_rank = experts_per_rank_, .own = group_.rank()}, plan.home_slots,
                   plan.home_rows, plan.home_rows, plan.home_slots, stream);
    wait(ids.weights_pending, context);
  }
  for (const ExpertRound& round : plan.rounds) {
    gather_rows(by_slot(ids.weights.rows(round.begin, round.end)), round.row_slots, 1,
                plan.row_weights.rows(round.first_row, round.first_row + round.rows()), stream);
  }
}

/// From the one round that begin() left, which has room for the indices of all.
void ExchangePlanner::make_rounds(ExchangePlan& plan, const Tensor& ids,
                                  ExecutionContext& context) const {
  Arena& arena = context.arena;
  const Arena::Scope scope(arena);
  const ExpertRound whole = plan.rounds[0];
  const std::int64_t sources = plan.sources(), top_k = plan.top_k, experts = experts_per_rank_;
  const std::int64_t block = plan.at_once ? std::max<std::int64_t>(sources, 1)
                                          : plan.round_rows / most_rows_of_source(plan);
  const std::int64_t rounds = std::max<std::int64_t>(divide_up(sources, block), 1);
  const Tensor counts = arena.allocate({rounds, experts}, DType::i64);
  plan.rounds.clear();
  for (std::int64_t i = 0; i < rounds; ++i) {
    ExpertRound round = whole;
    round.begin = i * block;
    round.end = std::min(sources, round.begin + block);
    round.row_slots = whole.row_slots.rows(round.begin * top_k, round.end * top_k);
    round.slot_rows = whole.slot_rows.rows(round.begin, round.end);
    group_slots(ids.rows(round.begin, round.end), first_expert(),
                counts.rows(i, i + 1).view({experts}), round.row_slots, round.slot_rows, arena,
                context.stream);
    plan.rounds.push_back(std::move(round));
  }
  if (!plan.at_once) {
    const Counts host = host_values<std::int64_t>(counts, context.stream);
    std::int64_t first_row = 0;
    for (std::size_t i = 0; i < plan.rounds.size(); ++i) {
      ExpertRound& round = plan.rounds[i];
      const auto per_round = static_cast<std::size_t>(experts);
      round.offsets = offsets_of(std::span(host).subspan(i * per_round, per_round));
      round.early.assign(per_round, 0);  // not worth counting
      round.first_row = first_row;
      first_row += round.rows();
    }
  }
  for (ExpertRound& round : plan.rounds) {
    round.row_slots = round.row_slots.rows(0, round.rows());
  }
}

}  // namespace polymoe
