// SPDX-License-Identifier: Apache-2.0
#include "moe/token_exchange.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "moe/exchange_plan.h"
#include "parallel/communication/communicator.h"
#include "runtime/context.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

/// [n, k] as one slot per row.
Tensor by_slot(const Tensor& tensor) { return tensor.view({tensor.elements(), 1}); }

/// to (+)= the sum of each source's results, or each slot's.
void add_up(const TokenExchange::Home& home, const Tensor& results, const Tensor& rows, Write write,
            const Tensor& to, ExecutionContext& context) {
  if (home.per_slot) {
    sum_rows(by_slot(results), by_slot(rows), write, by_slot(to), context.stream);
  } else {
    sum_rows(results, rows, write, to, context.stream);
  }
}

void wait_for_rows(Pending& pending, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange_wait);
  pending.wait(context.stream);
}

/// A round's sources of one kind, counted from the first of the kind.
struct Part {
  Tensor of(const Tensor& rows) const { return rows.rows(begin, end); }
  std::int64_t count() const { return end - begin; }
  std::int64_t begin, end;
};

/// The sources in [first, last).
Part part_of(const ExpertRound& round, std::int64_t first, std::int64_t last) {
  return {std::clamp(round.begin, first, last) - first, std::clamp(round.end, first, last) - first};
}
/// Those whose results stay on this rank for now: its own tokens, and what it passed on.
Part staying_part(const ExchangePlan& plan, const ExpertRound& round) {
  return part_of(round, 0, plan.hops.back().sources);
}
/// Those whose results leave by the last hop.
Part leaving_part(const ExchangePlan& plan, const ExpertRound& round) {
  return part_of(round, plan.hops.back().sources, plan.sources());
}

}  // namespace

void TokenExchange::begin_plan(const Tensor& expert_ids, const Tensor& weights,
                               const ExpertCapacity& capacity, ExchangePlan& plan,
                               ExecutionContext& context) {
  const Timeline::At place(context.timeline, "counts");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  planner_.begin(expert_ids, weights, capacity, plan, context);
}

ExchangePlanner::Ids TokenExchange::send_ids(const ExchangePlan& plan, ExecutionContext& context) {
  const Timeline::At place(context.timeline, "routes");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  return planner_.send_ids(plan, context);
}

void TokenExchange::finish_plan(ExchangePlan& plan, ExchangePlanner::Ids& ids,
                                ExecutionContext& context) {
  const Timeline::At place(context.timeline, "routes");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  planner_.finish(plan, ids, context);
}

Pending TokenExchange::start_dispatch(const ExchangePlan& plan, const Tensor& x,
                                      const Tensor& arrived, ExecutionContext& context) {
  if (!sends()) return {};
  const Timeline::At place(context.timeline, "dispatch");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  Pending pending;
  std::int64_t begin = 0;  // of what arrives by the hop
  for (std::size_t h = 0; h < plan.hops.size(); ++h) {
    const ExchangeHop& hop = plan.hops[h];
    if (h > 0) wait_for_rows(pending, context);
    const Tensor leaving = context.arena.allocate({hop.leaving, x.dim(1)}, x.dtype());
    gather_rows(x, h == 0 ? Tensor() : arrived.rows(0, begin), hop.leaving_slots, plan.top_k,
                leaving, context.stream);
    pending = planner_.group(h).start_all_to_all(leaving, hop.leaving_rows,
                                                 arrived.rows(begin, begin + hop.arriving),
                                                 hop.arriving_rows, context.stream);
    begin += hop.arriving;
  }
  return pending;
}

void TokenExchange::wait(Pending& arriving, ExecutionContext& context) {
  const Timeline::At place(context.timeline, "dispatch");
  wait_for_rows(arriving, context);
}

void TokenExchange::scatter_own(const ExchangePlan& plan, const ExpertRound& round, const Tensor& x,
                                Tensor rows, ExecutionContext& context) {
  const Part own = part_of(round, 0, plan.tokens);
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  scatter_rows(own.of(x), round.slot_rows.rows(0, own.count()), rows, context.stream);
}

void TokenExchange::scatter_arrived(const ExchangePlan& plan, const ExpertRound& round,
                                    const Tensor& arrived, Tensor rows, ExecutionContext& context) {
  if (!sends()) return;
  const Part other = part_of(round, plan.tokens, plan.sources());
  const std::int64_t sources = round.slot_rows.dim(0);
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  scatter_rows(other.of(arrived), round.slot_rows.rows(sources - other.count(), sources), rows,
               context.stream);
}

TokenExchange::Home TokenExchange::allocate_home(const ExchangePlan& plan, std::int64_t width,
                                                 bool per_slot, DType dtype, Arena& arena) const {
  Home home;
  home.per_slot = per_slot;
  if (!sends()) return home;
  for (const ExchangeHop& hop : plan.hops)
    home.sums.push_back(arena.allocate({hop.sources + hop.leaving, width}, dtype));
  if (plan.hops.size() > 1)
    home.passed = arena.allocate({plan.hops.front().arriving, width}, dtype);
  home.leaving = arena.allocate({plan.hops.back().arriving, width}, dtype);
  return home;
}

void TokenExchange::sum_arrived(const ExchangePlan& plan, const ExpertRound& round,
                                const Tensor& results, Home& home, ExecutionContext& context) {
  if (!sends()) return;
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Part part = leaving_part(plan, round);
  const std::int64_t sources = round.slot_rows.dim(0);
  add_up(home, results, round.slot_rows.rows(sources - part.count(), sources), Write::overwrite,
         part.of(home.leaving), context);
}

void TokenExchange::sum_own(const ExchangePlan& plan, const ExpertRound& round,
                            const Tensor& results, Home& home, ExecutionContext& context) {
  if (!sends()) {
    home.direct = results;
    return;
  }
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Part part = staying_part(plan, round);
  add_up(home, results, round.slot_rows.rows(0, part.count()), Write::overwrite,
         part.of(home.sums.back()), context);
}

void TokenExchange::send_home(const ExchangePlan& plan, Home& home, ExecutionContext& context) {
  if (!sends()) return;
  const Timeline::At place(context.timeline, "combine");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const ExchangeHop& hop = plan.hops.back();
  home.pending =
      planner_.group(plan.hops.size() - 1)
          .start_all_to_all(home.leaving, hop.arriving_rows,
                            home.sums.back().rows(hop.sources, hop.sources + hop.leaving),
                            hop.leaving_rows, context.stream);
}

void TokenExchange::finish_home(const ExchangePlan& plan, Home& home, Write write, Tensor y,
                                ExecutionContext& context) {
  const Timeline::At place(context.timeline, "combine");
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  if (!sends()) return add_up(home, home.direct, plan.rounds[0].slot_rows, write, y, context);
  wait_for_rows(home.pending, context);
  const auto table = [&](const ExchangeHop& hop) {
    return home.per_slot ? hop.home_slots : hop.home_rows;
  };
  if (plan.hops.size() > 1) {
    // What the node made of own tokens, and of the rows of other nodes that were passed on.
    const ExchangeHop &across = plan.hops.front(), &within = plan.hops.back();
    add_up(home, home.sums.back(), table(within).rows(0, plan.tokens), Write::overwrite,
           home.sums.front().rows(0, plan.tokens), context);
    add_up(home, home.sums.back(), table(within).rows(plan.tokens, within.sources),
           Write::overwrite, home.passed, context);
    Pending passed = planner_.group(0).start_all_to_all(
        home.passed, across.arriving_rows,
        home.sums.front().rows(across.sources, across.sources + across.leaving),
        across.leaving_rows, context.stream);
    wait_for_rows(passed, context);
  }
  add_up(home, home.sums.front(), table(plan.hops.front()), write, y, context);
}

}  // namespace polymoe
