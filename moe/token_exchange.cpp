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

void append_own(const TokenExchange::OwnPiece& piece, std::vector<TokenExchange::OwnPiece>& own) {
  if (piece.rows == 0) return;
  if (!own.empty()) {
    TokenExchange::OwnPiece& last = own.back();
    if (last.sent + last.rows == piece.sent && last.received + last.rows == piece.received) {
      last.rows += piece.rows;
      return;
    }
  }
  own.push_back(piece);
}

void append_pieces(std::span<const TokenExchange::Piece> pieces, const Tensor& rows,
                   std::vector<PeerRows>& list) {
  for (const auto& [peer, begin, end] : pieces) list.push_back({peer, rows.rows(begin, end)});
}

}  // namespace

TokenExchange::TokenExchange(Communicator& group, std::int64_t experts, Route route)
    : group_(group), experts_(experts), local_experts_(experts / group.size()), route_(route) {}

bool TokenExchange::sends_pieces(const Stream& stream) const {
  if (route_ == Route::by_backend) return stream.device().backend() == DeviceType::cpu;
  return route_ == Route::pieces;
}

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
  const Counts by_expert = transposed(received, local_experts_);
  Counts expert_rows;
  sum_per_rank(by_expert, group_.size(), expert_rows);
  plan.offsets.assign(1, 0);
  for (const std::int64_t rows : expert_rows) {
    plan.offsets.push_back(plan.offsets.back() + rows);
  }
  if (!sends() || sends_pieces(context.stream)) {
    plan_pieces(kept, received, plan);
    if (sends() && plan.slot_rows.device().type == DeviceType::cpu) renumber_slots(plan);
    return;
  }
  sum_per_rank(kept, local_experts_, plan.send_rows);
  sum_per_rank(received, local_experts_, plan.receive_rows);
  plan.to_experts = arena.allocate({plan.received}, DType::i32);
  plan.to_ranks = arena.allocate({plan.received}, DType::i32);
  regroup_indices(received, local_experts_, plan.to_experts, context.stream);
  regroup_indices(by_expert, group_.size(), plan.to_ranks, context.stream);
}

void TokenExchange::plan_pieces(const Counts& kept, const Counts& received, Plan& plan) const {
  plan.own.clear();
  plan.leaving.clear();
  plan.arriving.clear();
  plan.leaving_rows = 0;
  Counts next(plan.offsets.begin(), plan.offsets.end() - 1);  // free row of each own expert
  std::int64_t sent = 0;
  for (int peer = 0; peer < group_.size(); ++peer) {
    const bool own = peer == group_.rank();
    if (own) plan.own_begin = sent;
    for (std::int64_t e = 0; e < local_experts_; ++e) {
      const auto i = static_cast<std::size_t>(peer * local_experts_ + e);
      std::int64_t& row = next[static_cast<std::size_t>(e)];
      if (own) {
        append_own({.sent = sent, .received = row, .rows = kept[i]}, plan.own);
      } else {
        if (kept[i] > 0) {
          plan.leaving.push_back({peer, plan.leaving_rows, plan.leaving_rows + kept[i]});
        }
        if (received[i] > 0) plan.arriving.push_back({peer, row, row + received[i]});
        plan.leaving_rows += kept[i];
      }
      sent += kept[i];
      row += received[i];
    }
    if (own) plan.own_end = sent;
  }
}

void TokenExchange::renumber_slots(const Plan& plan) const {
  const auto* slots = plan.row_slots.data<std::int32_t>();
  auto* rows = plan.slot_rows.data<std::int32_t>();
  const auto number = [&](std::int64_t sent, std::int64_t count, std::int64_t row) {
    for (std::int64_t i = 0; i < count; ++i) {
      rows[slots[sent + i]] = static_cast<std::int32_t>(row + i);
    }
  };
  for (const OwnPiece& piece : plan.own) number(piece.sent, piece.rows, piece.received);
  number(0, plan.own_begin, plan.received);
  number(plan.own_end, plan.sent - plan.own_end, plan.received + plan.own_begin);
}

Tensor TokenExchange::gather_leaving(const Plan& plan, const Dispatched& dispatched,
                                     ExecutionContext& context) const {
  const auto& [x, slots_per_row, rows] = dispatched;
  const Tensor leaving = context.arena.allocate({plan.leaving_rows, x.dim(1)}, x.dtype());
  gather_rows(x, plan.row_slots.rows(0, plan.own_begin), slots_per_row,
              leaving.rows(0, plan.own_begin), context.stream);
  gather_rows(x, plan.row_slots.rows(plan.own_end, plan.sent), slots_per_row,
              leaving.rows(plan.own_begin, plan.leaving_rows), context.stream);
  return leaving;
}

TokenExchange::Transfer TokenExchange::start_dispatch(const Plan& plan,
                                                      std::span<const Dispatched> dispatched,
                                                      ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  Transfer transfer;
  if (sends() && !sends_pieces(context.stream)) {
    for (const auto& [x, slots_per_row, rows] : dispatched) {
      const Tensor arriving = context.arena.allocate({plan.received, x.dim(1)}, x.dtype());
      const Tensor leaving = context.arena.allocate({plan.sent, x.dim(1)}, x.dtype());
      gather_rows(x, plan.row_slots, slots_per_row, leaving, context.stream);
      transfer.regrouped.push_back({arriving, rows,
                                    group_.start_all_to_all(leaving, plan.send_rows, arriving,
                                                            plan.receive_rows, context.stream)});
    }
    return transfer;
  }
  if (sends()) {
    std::vector<PeerRows> send, receive;
    for (const Dispatched& one : dispatched) {
      append_pieces(plan.leaving, gather_leaving(plan, one, context), send);
      append_pieces(plan.arriving, one.rows, receive);
    }
    transfer.pending = group_.start_exchange(send, receive, context.stream);
  }
  for (const auto& [x, slots_per_row, rows] : dispatched) {
    for (const OwnPiece& piece : plan.own) {
      gather_rows(x, plan.row_slots.rows(piece.sent, piece.sent + piece.rows), slots_per_row,
                  rows.rows(piece.received, piece.received + piece.rows), context.stream);
    }
  }
  return transfer;
}

void TokenExchange::finish_dispatch(const Plan& plan, Transfer& transfer,
                                    ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  for (auto& [arriving, rows, pending] : transfer.regrouped) {
    pending.wait(context.stream);
    gather_rows(arriving, plan.to_experts, 1, rows, context.stream);
  }
}

Tensor TokenExchange::allocate_rows(const Plan& plan, std::int64_t width, DType dtype,
                                    Arena& arena) const {
  return arena.allocate({plan.received + plan.leaving_rows, width}, dtype);
}

TokenExchange::Transfer TokenExchange::start_combine(const Plan& plan, const Tensor& rows,
                                                     ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  Transfer transfer{.pending = {}, .rows = rows, .regrouped = {}};
  if (!sends()) return transfer;
  if (sends_pieces(context.stream)) {
    std::vector<PeerRows> send, receive;
    append_pieces(plan.arriving, rows, send);
    append_pieces(plan.leaving, rows.rows(plan.received, rows.dim(0)), receive);
    transfer.pending = group_.start_exchange(send, receive, context.stream);
    return transfer;
  }
  transfer.rows = context.arena.allocate({plan.sent, rows.dim(1)}, rows.dtype());
  const Tensor leaving = context.arena.allocate({plan.received, rows.dim(1)}, rows.dtype());
  gather_rows(rows, plan.to_ranks, 1, leaving, context.stream);
  transfer.pending = group_.start_all_to_all(leaving, plan.receive_rows, transfer.rows,
                                             plan.send_rows, context.stream);
  return transfer;
}

void TokenExchange::finish_combine(Transfer& transfer, const Tensor& slot_rows, Write write,
                                   Tensor y, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::exchange);
  transfer.pending.wait(context.stream);
  sum_rows(transfer.rows, slot_rows, write, y, context.stream);
}

}  // namespace polymoe
