// SPDX-License-Identifier: Apache-2.0
#include "moe/exchange_plan.h"

#include <cmath>
#include <numeric>
#include <span>

#include "kernels/dispatch_plan/rank_rows.h"
#include "runtime/copy.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

using Counts = std::vector<std::int64_t>;

std::int64_t sum_of(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

Tensor by_slot(const Tensor& tensor) { return tensor.view({tensor.elements(), 1}); }

}  // namespace

struct ExchangePlanner::HostCounts {
  Counts leaving, arriving;  // rows per rank
  Counts expert_rows;        // of this rank's experts
};

ExchangePlanner::ExchangePlanner(Communicator& group, std::int64_t experts, double planned_skew)
    : group_(group),
      experts_(experts),
      experts_per_rank_(experts / group.size()),
      planned_skew_(planned_skew) {}

ExchangePlanner::HostCounts ExchangePlanner::planned_counts(std::int64_t tokens,
                                                            std::int64_t top_k) const {
  const int ranks = group_.size();
  // A token misses a rank when all of its top_k experts are elsewhere.
  const double missed = std::pow(1.0 - 1.0 / ranks, static_cast<double>(top_k));
  const auto leaving =
      static_cast<std::int64_t>(std::ceil(static_cast<double>(tokens) * (1.0 - missed)));
  HostCounts counts;
  counts.leaving.assign(static_cast<std::size_t>(ranks), leaving);
  counts.leaving[static_cast<std::size_t>(group_.rank())] = 0;
  counts.arriving = counts.leaving;
  const auto skewed = [&](std::int64_t rows) {
    return static_cast<std::int64_t>(std::ceil(static_cast<double>(rows) * planned_skew_));
  };
  for (std::int64_t& rows : counts.arriving) rows = std::min(skewed(rows), tokens);
  const std::int64_t slots = tokens * top_k;
  for (std::int64_t e = 0; e < experts_per_rank_; ++e) {
    // Alone: exactly as many as there are.
    counts.expert_rows.push_back(
        ranks == 1 ? slots * (e + 1) / experts_ - slots * e / experts_
                   : skewed(static_cast<std::int64_t>(ranks) * cpu::divide_up(slots, experts_)));
  }
  return counts;
}

/// counts [experts + ranks]: kept slots per expert, then leaving rows per rank.
ExchangePlanner::HostCounts ExchangePlanner::exchange_counts(const Tensor& counts,
                                                             std::int64_t tokens,
                                                             std::int64_t top_k,
                                                             Stream& stream) const {
  if (stream.device().type == DeviceType::meta) return planned_counts(tokens, top_k);
  const Counts own = host_values<std::int64_t>(counts, stream);
  const auto ranks = static_cast<std::size_t>(group_.size());
  const auto per_rank = static_cast<std::size_t>(experts_per_rank_);
  const auto self = static_cast<std::size_t>(group_.rank());
  const std::span<const std::int64_t> of_experts(own.data(), ranks * per_rank);
  if (ranks == 1) return {{0}, {0}, Counts(of_experts.begin(), of_experts.end())};
  // To each rank: its rows, then those of each of its experts.
  Counts send, received(own.size());
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back(own[ranks * per_rank + r]);
    const auto part = of_experts.subspan(r * per_rank, per_rank);
    send.insert(send.end(), part.begin(), part.end());
  }
  group_.all_to_all_counts(send, received);
  HostCounts result;
  result.leaving.assign(own.end() - static_cast<std::ptrdiff_t>(ranks), own.end());
  result.expert_rows.assign(per_rank, 0);
  for (std::size_t r = 0; r < ranks; ++r) {
    const std::size_t first = r * (per_rank + 1);
    result.arriving.push_back(r == self ? 0 : received[first]);
    for (std::size_t e = 0; e < per_rank; ++e) result.expert_rows[e] += received[first + 1 + e];
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
  plan.home_rows = arena.allocate(expert_ids.shape(), DType::i32);
  const Tensor sorted_slots = arena.allocate({slots}, DType::i32);
  if (alone) {
    dispatch_plan(expert_ids, weights, capacity, plan.counts, sorted_slots, plan.home_rows, arena,
                  stream);
    plan.home_slots = plan.slot_rows = plan.home_rows;
    plan.row_slots = sorted_slots;
  } else {
    plan.home_slots = arena.allocate(expert_ids.shape(), DType::i32);
    const Arena::Scope scope(arena);
    const Tensor leaving_ranks = arena.allocate(expert_ids.shape(), DType::i32);
    dispatch_plan(expert_ids, weights, capacity, plan.counts, sorted_slots, plan.home_slots, arena,
                  stream);
    find_leaving_ranks({.experts_per_rank = experts_per_rank_, .own = group_.rank()}, expert_ids,
                       plan.home_slots, plan.home_slots, leaving_ranks, stream);
    group_slots(leaving_ranks, 0, counts.rows(experts_, experts_ + ranks), sorted_slots,
                plan.home_rows, arena, stream);
    plan.leaving_slots = sorted_slots;
  }
  HostCounts host = exchange_counts(counts, plan.tokens, plan.top_k, stream);
  plan.leaving_rows = std::move(host.leaving);
  plan.arriving_rows = std::move(host.arriving);
  plan.leaving = sum_of(plan.leaving_rows);
  plan.arriving = sum_of(plan.arriving_rows);
  plan.offsets.assign(1, 0);
  for (const std::int64_t rows : host.expert_rows) {
    plan.offsets.push_back(plan.offsets.back() + rows);
  }
  plan.received = plan.offsets.back();
  if (alone) {
    plan.row_slots = plan.row_slots.rows(0, plan.received);
  } else {
    plan.leaving_slots = plan.leaving_slots.rows(0, plan.leaving);
    plan.slot_rows = arena.allocate({plan.tokens + plan.arriving, plan.top_k}, DType::i32);
    plan.row_slots = arena.allocate({plan.slot_rows.elements()}, DType::i32);
  }
  plan.row_weights = arena.allocate({plan.received, 1}, weights.dtype());
}

ExchangePlanner::Ids ExchangePlanner::send_ids(const ExchangePlan& plan, const Tensor& weights,
                                               ExecutionContext& context) const {
  if (group_.size() == 1)
    return {.experts = {}, .weights = weights, .experts_pending = {}, .weights_pending = {}};
  Arena& arena = context.arena;
  Ids ids;
  const auto send = [&](const Tensor& own, Tensor& all) {
    all = arena.allocate({plan.tokens + plan.arriving, plan.top_k}, own.dtype());
    copy(own, all.rows(0, plan.tokens), context.stream);
    const Tensor leaving = arena.allocate({plan.leaving, plan.top_k}, own.dtype());
    gather_rows(own, plan.leaving_slots, plan.top_k, leaving, context.stream);
    return group_.start_all_to_all(leaving, plan.leaving_rows,
                                   all.rows(plan.tokens, plan.tokens + plan.arriving),
                                   plan.arriving_rows, context.stream);
  };
  ids.experts_pending = send(plan.home_slots, ids.experts);  // which holds the kept experts so far
  ids.weights_pending = send(weights, ids.weights);
  return ids;
}

void ExchangePlanner::finish(ExchangePlan& plan, Ids& ids, ExecutionContext& context) const {
  Arena& arena = context.arena;
  if (group_.size() > 1) {
    const Arena::Scope scope(arena);
    const Tensor counts = arena.allocate({experts_per_rank_}, DType::i64);
    ids.experts_pending.wait(context.stream);
    group_slots(ids.experts, first_expert(), counts, plan.row_slots, plan.slot_rows, arena,
                context.stream);
    plan.row_slots = plan.row_slots.rows(0, plan.received);
    find_home_rows({.experts_per_rank = experts_per_rank_, .own = group_.rank()}, plan.received,
                   plan.home_slots, plan.home_rows, plan.slot_rows.rows(0, plan.tokens),
                   plan.home_rows, plan.home_slots, context.stream);
    ids.weights_pending.wait(context.stream);
  }
  gather_rows(by_slot(ids.weights), plan.row_slots, 1, plan.row_weights, context.stream);
}

}  // namespace polymoe
