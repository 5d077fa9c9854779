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
#include "parallel/communication/process_mesh.h"
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

std::int64_t ExchangePlan::leaving() const {
  std::int64_t rows = 0;
  for (const ExchangeHop& hop : hops) rows += hop.leaving;
  return rows;
}

std::int64_t ExchangePlan::arriving() const {
  std::int64_t rows = 0;
  for (const ExchangeHop& hop : hops) rows += hop.arriving;
  return rows;
}

struct ExchangePlanner::HostCounts {
  Counts leaving, arriving;  // rows per rank of the hop's group
  Counts kept;               // slots of own sources for each expert of the hop's ranks
  Counts expert_rows;        // of the experts of this rank, or of its node
  Counts early_rows;         // of this rank's experts: of own tokens
};

ExchangePlanner::ExchangePlanner(const ExpertGroups& groups, std::int64_t experts,
                                 double row_budget, std::int64_t layer)
    : rank_(groups.all.rank()),
      ranks_(groups.all.size()),
      experts_(experts),
      experts_per_rank_(experts / groups.all.size()),
      row_budget_(row_budget),
      layer_(layer) {
  const auto add = [&](Communicator& group, std::int64_t first, std::int64_t count,
                       const char* name) {
    ways_.push_back({group,
                     {.experts_per_rank = count / group.size(),
                      .own = group.rank(),
                      .first_expert = first,
                      .ranks = group.size()},
                     name});
  };
  if (groups.node != nullptr) {
    const std::int64_t of_node = experts / groups.across->size();
    add(*groups.across, 0, experts, "the expert group across nodes");
    add(*groups.node, of_node * groups.across->rank(), of_node, "the expert group in this node");
  } else if (ranks_ > 1) {
    add(groups.all, 0, experts, "the expert group");
  }
}

/// What an exchange is known by: layer, experts and top-k in one number.
std::int64_t ExchangePlanner::signature(std::int64_t top_k) const {
  return (layer_ << 40) | (experts_ << 16) | top_k;
}

/// announced [2 + experts of a rank]: the peer's signature, its rows, and its slots for each
/// expert.
void ExchangePlanner::check_announced(const Way& way, int peer,
                                      std::span<const std::int64_t> announced,
                                      std::int64_t top_k) const {
  const std::string who =
      "rank " + std::to_string(peer) + " of " + std::string(way.name) + " announces ";
  if (announced[0] != signature(top_k)) {
    const auto text = [](std::int64_t value) {
      return "layer " + std::to_string(value >> 40) + " (" +
             std::to_string((value >> 16) & 0xffffff) + " experts, top-" +
             std::to_string(value & 0xffff) + ")";
    };
    throw CommunicationError(who + "the rows of " + text(announced[0]) + ", rank " +
                             std::to_string(way.group.rank()) + " is in " + text(signature(top_k)) +
                             ": the ranks have lost step");
  }
  const std::int64_t rows = announced[1], slots = sum_of(announced.subspan(2));
  const std::int64_t most = rows * std::min(top_k, way.experts.experts_per_rank);
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

/// How many rows each expert of this rank gets, on the meta device.
std::vector<std::int64_t> ExchangePlanner::planned_rows(const ExchangePlan& plan) const {
  const std::int64_t rows =
      ranks_ == 1 ? plan.tokens * plan.top_k : budget_rows(plan.tokens, plan.top_k);
  const std::int64_t experts = experts_per_rank_;
  Counts of_experts;
  for (std::int64_t e = 0; e < experts; ++e)
    of_experts.push_back(rows * (e + 1) / experts - rows * e / experts);
  return of_experts;
}

/// counts [experts of the hop's ranks + ranks]: slots of own sources per expert, then leaving rows
/// per rank.
ExchangePlanner::HostCounts ExchangePlanner::exchange_counts(const Way& way, const Tensor& counts,
                                                             const ExchangePlan& plan,
                                                             ExecutionContext& context) const {
  const Timeline::Scope phase(context.timeline, Phase::exchange_wait);
  Stream& stream = context.stream;
  const auto ranks = static_cast<std::size_t>(way.group.size());
  const auto per_rank = static_cast<std::size_t>(way.experts.experts_per_rank);
  const auto self = static_cast<std::size_t>(way.group.rank());
  HostCounts result;
  if (stream.device().type == DeviceType::meta) {
    result.leaving.assign(ranks, plan.hops.back().sources);
    result.leaving[self] = 0;
    result.arriving = result.leaving;
    return result;
  }
  const Counts own = host_values<std::int64_t>(counts, stream);
  result.kept.assign(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(ranks * per_rank));
  result.leaving.assign(own.end() - static_cast<std::ptrdiff_t>(ranks), own.end());
  // To each rank: what this is, its rows, then the slots of each of its experts.
  const std::size_t per_peer = 2 + per_rank;
  Counts send, received(ranks * per_peer);
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back(signature(plan.top_k));
    send.push_back(result.leaving[r]);
    const auto part = std::span<const std::int64_t>(result.kept).subspan(r * per_rank, per_rank);
    send.insert(send.end(), part.begin(), part.end());
  }
  way.group.all_to_all_counts(send, received);
  result.expert_rows.assign(per_rank, 0);
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto announced = std::span<const std::int64_t>(received).subspan(r * per_peer, per_peer);
    if (r != self) check_announced(way, static_cast<int>(r), announced, plan.top_k);
    result.arriving.push_back(r == self ? 0 : announced[1]);
    for (std::size_t e = 0; e < per_rank; ++e) result.expert_rows[e] += announced[2 + e];
  }
  return result;
}

ExchangePlanner::HostCounts ExchangePlanner::plan_alone(const Tensor& expert_ids,
                                                        const Tensor& weights,
                                                        const ExpertCapacity& capacity,
                                                        ExchangePlan& plan,
                                                        ExecutionContext& context) const {
  Arena& arena = context.arena;
  plan.counts = arena.allocate({experts_}, DType::i64);
  const Tensor row_slots = arena.allocate({expert_ids.elements()}, DType::i32);
  const Tensor slot_rows = arena.allocate(expert_ids.shape(), DType::i32);
  dispatch_plan(expert_ids, weights, capacity, plan.counts, row_slots, slot_rows, arena,
                context.stream);
  plan.rounds.assign(1, {});
  plan.rounds[0].row_slots = row_slots;
  plan.rounds[0].slot_rows = slot_rows;
  HostCounts host;
  const Timeline::Scope phase(context.timeline, Phase::exchange_wait);
  host.expert_rows = context.stream.device().type == DeviceType::meta
                         ? planned_rows(plan)
                         : host_values<std::int64_t>(plan.counts, context.stream);
  host.early_rows = host.expert_rows;
  return host;
}

/// `ids` [sources, top_k] of all experts, of which slots with negative slot_rows are dropped;
/// `sorted_slots` has room for as many. The first hop's counts are those of the dispatch plan.
ExchangePlanner::HostCounts ExchangePlanner::plan_hop(const Way& way, const Tensor& ids,
                                                      const Tensor& slot_rows, const Tensor& counts,
                                                      const Tensor& sorted_slots,
                                                      ExchangePlan& plan,
                                                      ExecutionContext& context) const {
  Arena& arena = context.arena;
  Stream& stream = context.stream;
  ExchangeHop& hop = plan.hops.back();
  {
    const Arena::Scope scope(arena);
    const Tensor leaving_ranks = arena.allocate(ids.shape(), DType::i32);
    find_leaving_ranks(way.experts, ids, slot_rows, hop.home_slots, leaving_ranks, stream);
    if (plan.hops.size() > 1)
      group_slots(hop.home_slots, 0, counts.rows(0, way.count()), sorted_slots, hop.home_rows,
                  arena, stream);
    group_slots(leaving_ranks, 0, counts.rows(way.count(), counts.elements()), sorted_slots,
                hop.home_rows, arena, stream);
  }
  HostCounts host = exchange_counts(way, counts, plan, context);
  hop.leaving_rows = host.leaving;
  hop.arriving_rows = host.arriving;
  hop.leaving = sum_of(hop.leaving_rows);
  hop.arriving = sum_of(hop.arriving_rows);
  hop.leaving_slots = sorted_slots.rows(0, hop.leaving);
  return host;
}

ExchangePlanner::HostCounts ExchangePlanner::plan_hops(const Tensor& expert_ids,
                                                       const Tensor& weights,
                                                       const ExpertCapacity& capacity,
                                                       ExchangePlan& plan,
                                                       ExecutionContext& context) const {
  Arena& arena = context.arena;
  const bool planned = context.stream.device().type == DeviceType::meta;
  HostCounts host;
  Counts early_rows;
  for (std::size_t h = 0; h < ways_.size(); ++h) {
    const Way& way = ways_[h];
    const std::int64_t sendable = plan.sources();
    ExchangeHop& hop = plan.hops.emplace_back();
    hop.sources = sendable;
    const Shape slots{hop.sources, plan.top_k};
    const Tensor counts = arena.allocate({way.count() + way.group.size()}, DType::i64);
    const Tensor sorted_slots = arena.allocate({slots.elements()}, DType::i32);
    hop.home_slots = arena.allocate(slots, DType::i32);
    hop.home_rows = arena.allocate(slots, DType::i32);
    if (h > 0) {
      host = plan_hop(way, plan.source_ids, plan.source_ids, counts, sorted_slots, plan, context);
      break;
    }
    plan.counts = counts.rows(0, experts_);
    dispatch_plan(expert_ids, weights, capacity, plan.counts, sorted_slots, hop.home_slots, arena,
                  context.stream);
    host = plan_hop(way, expert_ids, hop.home_slots, counts, sorted_slots, plan, context);
    if (!planned) {
      const auto here = std::span<const std::int64_t>(host.kept).subspan(
          static_cast<std::size_t>(first_expert()), static_cast<std::size_t>(experts_per_rank_));
      early_rows.assign(here.begin(), here.end());
      plan.leaving_slot_count = sum_of(host.kept) - sum_of(here);
    }
    plan.source_ids = hop.home_slots;  // which holds the kept experts so far
    plan.source_weights = weights;
    if (ways_.size() == 1) break;
    // Whoever passes rows on must know where to.
    for (Tensor* sources : {&plan.source_ids, &plan.source_weights}) {
      const Tensor all = arena.allocate({plan.sources(), plan.top_k}, sources->dtype());
      const Arena::Scope scope(arena);
      Pending passing = start_passing(h, plan, *sources, all, context);
      wait(passing, context);
      *sources = all;
    }
  }
  if (planned) {
    host.expert_rows = planned_rows(plan);
    for (const std::int64_t rows : host.expert_rows) early_rows.push_back(rows / ranks_);
  }
  host.early_rows = std::move(early_rows);
  return host;
}

void ExchangePlanner::begin(const Tensor& expert_ids, const Tensor& weights,
                            const ExpertCapacity& capacity, ExchangePlan& plan,
                            ExecutionContext& context) const {
  Arena& arena = context.arena;
  plan.tokens = expert_ids.dim(0);
  plan.top_k = expert_ids.dim(1);
  plan.hops.clear();
  const bool alone = ways_.empty();
  HostCounts host = alone ? plan_alone(expert_ids, weights, capacity, plan, context)
                          : plan_hops(expert_ids, weights, capacity, plan, context);
  plan.received = sum_of(host.expert_rows);
  // Ranks without tokens of their own work off others'.
  const std::int64_t tokens = std::max(plan.tokens, divide_up(plan.sources(), ranks_));
  const std::int64_t budget = budget_rows(tokens, plan.top_k);
  plan.at_once = alone || plan.received <= budget;
  plan.round_rows = plan.at_once ? plan.received : std::max(budget, most_rows_of_source(plan));
  if (!alone) {
    plan.rounds.assign(1, {});
    plan.rounds[0].slot_rows = arena.allocate({plan.sources(), plan.top_k}, DType::i32);
    plan.rounds[0].row_slots = arena.allocate({plan.sources() * plan.top_k}, DType::i32);
  }
  ExpertRound& round = plan.rounds[0];
  plan.row_weights =
      arena.allocate({round.slot_rows.elements(), 1}, weights.dtype()).rows(0, plan.received);
  round.end = plan.sources();
  round.offsets = offsets_of(host.expert_rows);
  round.early = std::move(host.early_rows);
  if (alone) {
    round.row_slots = round.row_slots.rows(0, plan.received);
    plan.source_weights = weights;
  }
}

Pending ExchangePlanner::start_passing(std::size_t hop, const ExchangePlan& plan, const Tensor& own,
                                       const Tensor& all, ExecutionContext& context) const {
  const ExchangeHop& way = plan.hops[hop];
  copy(own, all.rows(0, way.sources), context.stream);
  const Tensor leaving = context.arena.allocate({way.leaving, plan.top_k}, own.dtype());
  gather_rows(own, way.leaving_slots, plan.top_k, leaving, context.stream);
  return group(hop).start_all_to_all(leaving, way.leaving_rows,
                                     all.rows(way.sources, way.sources + way.arriving),
                                     way.arriving_rows, context.stream);
}

ExchangePlanner::Ids ExchangePlanner::send_ids(const ExchangePlan& plan,
                                               ExecutionContext& context) const {
  Ids ids{
      .experts = {}, .weights = plan.source_weights, .experts_pending = {}, .weights_pending = {}};
  if (ways_.empty()) return ids;
  const auto send = [&](const Tensor& own, Tensor& all) {
    all = context.arena.allocate({plan.sources(), plan.top_k}, own.dtype());
    return start_passing(ways_.size() - 1, plan, own, all, context);
  };
  ids.experts_pending = send(plan.source_ids, ids.experts);
  ids.weights_pending = send(plan.source_weights, ids.weights);
  return ids;
}

void ExchangePlanner::finish(ExchangePlan& plan, Ids& ids, ExecutionContext& context) const {
  Stream& stream = context.stream;
  if (!ways_.empty()) {
    wait(ids.experts_pending, context);
    make_rounds(plan, ids.experts, context);
    for (std::size_t h = 0; h < ways_.size(); ++h) {
      const ExchangeHop& hop = plan.hops[h];
      find_home_rows(ways_[h].experts, hop.home_slots, hop.home_rows, hop.home_rows, hop.home_slots,
                     stream);
    }
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
