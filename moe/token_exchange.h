// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dispatch_plan.h"
#include "kernels/feed_forward.h"
#include "parallel/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// Moves token rows to the ranks that hold their experts, and back.
///
/// A token's rows go out grouped by expert, hence by rank; they arrive grouped by (rank, expert)
/// and are regrouped to (expert, rank), so that each expert's rows are contiguous and in the order
/// of the tokens of the whole group. In a group of one nothing is sent: rows move once, from the
/// tokens to the experts.
///
/// Both directions come in two halves, between which other work may run: start_X takes memory from
/// the arena and posts the transfer, finish_X waits for it. Collective over the group.
class TokenExchange {
 public:
  /// What goes where for one micro-batch. Kept for backward.
  struct Plan {
    Tensor counts;     // [experts] i64: kept rows of this rank's tokens
    Tensor row_slots;  // [sent] i32: sent row -> slot
    Tensor slot_rows;  // [tokens, top_k] i32: slot -> sent row, -1 where dropped
    std::int64_t top_k = 0;
    std::int64_t sent = 0;                              // rows of this rank's tokens
    std::int64_t received = 0;                          // rows of this rank's experts
    ExpertOffsets offsets;                              // of the received rows
    std::vector<std::int64_t> send_rows, receive_rows;  // per rank of the group
    Tensor to_experts, to_ranks;  // [received] i32: gather indices; undefined in a group of one
  };

  /// Rows on their way.
  struct Transfer {
    Tensor rows;  // what arrives, or what it is gathered from in a group of one
    std::int64_t slots_per_row = 1;
    Pending pending;
  };

  /// `experts` of the whole group.
  TokenExchange(Communicator& group, std::int64_t experts);

  /// False in a group of one, where dispatching moves no row to another rank.
  bool sends() const { return group_.size() > 1; }

  /// Fills `plan`, whose tensors outlive the call in the arena. On the meta device the slots are
  /// taken as spread evenly over the experts, rounded up.
  void make_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                 Plan& plan, ExecutionContext& context);

  /// Sends for each kept slot s the row x[s / slots_per_row] to its expert.
  ///
  /// x [tokens, width] with slots_per_row = top_k, or [tokens * top_k, width] with 1
  Transfer start_dispatch(const Plan& plan, const Tensor& x, std::int64_t slots_per_row,
                          ExecutionContext& context);
  /// rows [received, width], grouped by expert.
  void finish_dispatch(const Plan& plan, Transfer& transfer, Tensor rows,
                       ExecutionContext& context);

  /// Sends the experts' rows [received, width] back.
  Transfer start_combine(const Plan& plan, const Tensor& rows, ExecutionContext& context);
  /// y[t] (+)= sum over the kept slots of token t, in the order of their weights. With
  /// slot_rows = plan.slot_rows [tokens, top_k]; viewed as [tokens * top_k, 1] it puts each slot's
  /// row by itself.
  void finish_combine(Transfer& transfer, const Tensor& slot_rows, Write write, Tensor y,
                      ExecutionContext& context);

 private:
  /// Received rows of each (rank, local expert), which the others' counts tell.
  std::vector<std::int64_t> exchange_counts(const std::vector<std::int64_t>& kept,
                                            ExecutionContext& context);

  Communicator& group_;
  std::int64_t experts_;
  std::int64_t local_experts_;
};

}  // namespace polymoe
