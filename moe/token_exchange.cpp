// SPDX-License-Identifier: Apache-2.0
#include "moe/token_exchange.h"

#include <numeric>
#include <span>

#include "runtime/copy.h"

namespace polymoe {
namespace {

using Counts = std::vector<std::int64_t>;

std::int64_t sum_of(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

/// Row counts per rank, each of which has `per_rank` of the counts.
void sum_per_rank(const Counts& counts, std::int64_t per_rank, Counts& rows) {
  const auto stride = static_cast<std::size_t>(per_rank);
  rows.clear();
  for (std::size_t first = 0; first < counts.size(); first += stride) {
    rows.push_back(sum_of(std::span(counts).subspan(first, stride)));
  }
}

Counts transposed(const Counts& counts, std::int64_t columns) {
  const auto width = static_cast<std::size_t>(columns), height = counts.size() / width;
  Counts result(counts.size());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    result[i % width * height + i / width] = counts[i];
  }
  return result;
}

/// Kept rows per expert, on the host. On the meta device: the slots spread evenly.
Counts host_counts(const Tensor& counts, std::int64_t slots, Stream& stream) {
  const std::int64_t experts = counts.dim(0);
  if (counts.device().type == DeviceType::meta) {
    Counts even(static_cast<std::size_t>(experts));
    for (std::int64_t e = 0; e < experts; ++e) {
      even[static_cast<std::size_t>(e)] = slots * (e + 1) / experts - slots * e / experts;
    }
    return even;
  }
  return host_values<std::int64_t>(counts, stream);
}

}  // namespace

TokenExchange::TokenExchange(Communicator& group, std::int64_t experts)
    : group_(group), experts_(experts), local_experts_(experts / group.size()) {}

Counts TokenExchange::exchange_counts(const Counts& kept, ExecutionContext& context) {
  if (group_.size() == 1) return kept;
  if (context.stream.device().type == DeviceType::meta) {
    const std::int64_t even = (sum_of(kept) + experts_ - 1) / experts_;
    return Counts(kept.size(), even);
  }
  Counts received(kept.size());
  group_.all_to_all_counts(kept, received);
  return received;
}

void TokenExchange::make_plan(const Tensor& expert_ids, const Tensor& weights,
                              const ExpertCapacity& capacity, Plan& plan,
                              ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  Arena& arena = context.arena;
  const std::int64_t slots = expert_ids.elements();
  plan.top_k = expert_ids.dim(1);
  plan.counts = arena.allocate({experts_}, DType::i64);
  plan.slot_rows = arena.allocate(expert_ids.shape(), DType::i32);
  plan.row_slots = arena.allocate({slots}, DType::i32);
  dispatch_plan(expert_ids, weights, capacity, plan.counts, plan.row_slots, plan.slot_rows, arena,
                context.stream);
  const Counts kept = host_counts(plan.counts, slots, context.stream);
  const Counts received = exchange_counts(kept, context);
  plan.sent = sum_of(kept);
  plan.received = sum_of(received);
  plan.row_slots = plan.row_slots.rows(0, plan.sent);
  sum_per_rank(kept, local_experts_, plan.send_rows);
  sum_per_rank(received, local_experts_, plan.receive_rows);

  const Counts by_expert = transposed(received, local_experts_);
  Counts expert_rows;
  sum_per_rank(by_expert, group_.size(), expert_rows);
  plan.offsets.assign(1, 0);
  for (const std::int64_t rows : expert_rows) {
    plan.offsets.push_back(plan.offsets.back() + rows);
  }
  if (group_.size() == 1) return;
  plan.to_experts = arena.allocate({plan.received}, DType::i32);
  plan.to_ranks = arena.allocate({plan.received}, DType::i32);
  regroup_indices(received, local_experts_, plan.to_experts, context.stream);
  regroup_indices(by_expert, group_.size(), plan.to_ranks, context.stream);
}

TokenExchange::Transfer TokenExchange::start_dispatch(const Plan& plan, const Tensor& x,
                                                      std::int64_t slots_per_row,
                                                      ExecutionContext& context) {
  if (group_.size() == 1) return {x, slots_per_row, {}};
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Tensor arriving = context.arena.allocate({plan.received, x.dim(1)}, x.dtype());
  const Tensor leaving = context.arena.allocate({plan.sent, x.dim(1)}, x.dtype());
  gather_rows(x, plan.row_slots, slots_per_row, leaving, context.stream);
  return {arriving, 1,
          group_.start_all_to_all(leaving, plan.send_rows, arriving, plan.receive_rows,
                                  context.stream)};
}

void TokenExchange::finish_dispatch(const Plan& plan, Transfer& transfer, Tensor rows,
                                    ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  gather_rows(transfer.rows, group_.size() == 1 ? plan.row_slots : plan.to_experts,
              transfer.slots_per_row, rows, context.stream);
}

TokenExchange::Transfer TokenExchange::start_combine(const Plan& plan, const Tensor& rows,
                                                     ExecutionContext& context) {
  if (group_.size() == 1) return {rows, 1, {}};
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  const Tensor arriving = context.arena.allocate({plan.sent, rows.dim(1)}, rows.dtype());
  const Tensor leaving = context.arena.allocate({plan.received, rows.dim(1)}, rows.dtype());
  gather_rows(rows, plan.to_ranks, 1, leaving, context.stream);
  return {arriving, 1,
          group_.start_all_to_all(leaving, plan.receive_rows, arriving, plan.send_rows,
                                  context.stream)};
}

void TokenExchange::finish_combine(Transfer& transfer, const Tensor& slot_rows, Write write,
                                   Tensor y, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  sum_rows(transfer.rows, slot_rows, write, y, context.stream);
}

}  // namespace polymoe
