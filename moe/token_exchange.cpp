// SPDX-License-Identifier: Apache-2.0
#include "moe/token_exchange.h"

namespace polymoe {
namespace {

/// [n, k] as one slot per row.
Tensor by_slot(const Tensor& tensor) { return tensor.view({tensor.elements(), 1}); }

/// Of the plan's slot_rows: where the results of the rows that arrived are.
Tensor arrived_slots(const ExchangePlan& plan) {
  return plan.slot_rows.rows(plan.tokens, plan.tokens + plan.arriving);
}

}  // namespace

void TokenExchange::begin_plan(const Tensor& expert_ids, const Tensor& weights,
                               const ExpertCapacity& capacity, ExchangePlan& plan,
                               ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  planner_.begin(expert_ids, weights, capacity, plan, context);
}

ExchangePlanner::Ids TokenExchange::send_ids(const ExchangePlan& plan, const Tensor& weights,
                                             ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  return planner_.send_ids(plan, weights, context);
}

void TokenExchange::finish_plan(ExchangePlan& plan, ExchangePlanner::Ids& ids,
                                ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  planner_.finish(plan, ids, context);
}

Pending TokenExchange::start_dispatch(const ExchangePlan& plan, const Tensor& x,
                                      const Tensor& arrived, ExecutionContext& context) {
  if (group_.size() == 1) return {};
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Tensor leaving = context.arena.allocate({plan.leaving, x.dim(1)}, x.dtype());
  gather_rows(x, plan.leaving_slots, plan.top_k, leaving, context.stream);
  return group_.start_all_to_all(leaving, plan.leaving_rows, arrived, plan.arriving_rows,
                                 context.stream);
}

void TokenExchange::finish_dispatch(const ExchangePlan& plan, Pending& pending, const Tensor& x,
                                    const Tensor& arrived, Tensor rows, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  pending.wait(context.stream);
  gather_rows(x, arrived, plan.row_slots, plan.top_k, rows, context.stream);
}

Tensor TokenExchange::allocate_results(const ExchangePlan& plan, std::int64_t width, DType dtype,
                                       Arena& arena) const {
  return arena.allocate({plan.received + plan.leaving, width}, dtype);
}

TokenExchange::Transfer TokenExchange::start_combine(const ExchangePlan& plan,
                                                     const Tensor& results,
                                                     ExecutionContext& context) {
  if (group_.size() == 1) return {.pending = {}, .results = results};
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Tensor sums = context.arena.allocate({plan.arriving, results.dim(1)}, results.dtype());
  sum_rows(results.rows(0, plan.received), arrived_slots(plan), Write::overwrite, sums,
           context.stream);
  return {.pending = group_.start_all_to_all(sums, plan.arriving_rows,
                                             results.rows(plan.received, results.dim(0)),
                                             plan.leaving_rows, context.stream),
          .results = results};
}

void TokenExchange::finish_combine(const ExchangePlan& plan, Transfer& transfer, Write write,
                                   Tensor y, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  sum_rows(transfer.results, plan.home_rows, write, y, context.stream);
}

Tensor TokenExchange::allocate_slot_values(const ExchangePlan& plan, DType dtype,
                                           Arena& arena) const {
  return arena.allocate({plan.received + plan.leaving * plan.top_k, 1}, dtype);
}

TokenExchange::Transfer TokenExchange::start_combine_slots(const ExchangePlan& plan,
                                                           const Tensor& values,
                                                           ExecutionContext& context) {
  if (group_.size() == 1) return {.pending = {}, .results = values};
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Tensor sent = context.arena.allocate({plan.arriving, plan.top_k}, values.dtype());
  sum_rows(values.rows(0, plan.received), by_slot(arrived_slots(plan)), Write::overwrite,
           by_slot(sent), context.stream);
  const Tensor returned =
      values.rows(plan.received, values.dim(0)).view({plan.leaving, plan.top_k});
  return {.pending = group_.start_all_to_all(sent, plan.arriving_rows, returned, plan.leaving_rows,
                                             context.stream),
          .results = values};
}

void TokenExchange::finish_combine_slots(const ExchangePlan& plan, Transfer& transfer, Tensor y,
                                         ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  sum_rows(transfer.results, by_slot(plan.home_slots), Write::overwrite, by_slot(y),
           context.stream);
}

}  // namespace polymoe
