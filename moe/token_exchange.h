// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/feed_forward/feed_forward.h"
#include "parallel/communication/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// Moves token rows to the ranks that hold their experts, and back. Each expert's rows are
/// contiguous and in the order of the tokens of the whole group.
///
/// A token's rows go out grouped by expert, hence by rank. On CPUs every (rank, expert) piece goes
/// straight to its place among its expert's rows, and rows of this rank's own experts move once,
/// from the tokens to the experts: the cores that copy are those that compute. On GPUs rows arrive
/// by one all-to-all grouped by (rank, expert) and are regrouped to (expert, rank): many small
/// messages cost more there than another copy. In a group of one nothing is sent either way.
///
/// Both directions come in two halves, between which other work may run: start_X takes memory from
/// the arena and posts the transfer, finish_X waits for it. Collective over the group.
class TokenExchange {
 public:
  /// Rows of one expert for a peer or from it.
  struct Piece {
    int peer;
    std::int64_t begin, end;
  };
  /// Rows of an own expert that stay here.
  struct OwnPiece {
    std::int64_t sent, received;  // its first row among the sent rows and the experts' rows
    std::int64_t rows;
  };

  /// What goes where for one micro-batch. Kept for backward.
  struct Plan {
    Tensor counts;     // [experts] i64: kept rows of this rank's tokens
    Tensor row_slots;  // [sent] i32: sent row -> slot
    Tensor
        slot_rows;  // [tokens, top_k] i32: slot -> row of what finish_combine adds, -1 if dropped
    std::int64_t top_k = 0;
    std::int64_t sent = 0;      // rows of this rank's tokens
    std::int64_t received = 0;  // rows of this rank's experts
    ExpertOffsets offsets;      // of the received rows

    // Where pieces are sent: the rows that leave are the sent ones without [own_begin, own_end).
    std::int64_t own_begin = 0, own_end = 0;
    std::vector<OwnPiece> own;
    std::vector<Piece> leaving;   // of the rows that leave
    std::vector<Piece> arriving;  // of the experts' rows
    std::int64_t leaving_rows = 0;

    // Where rows are regrouped.
    std::vector<std::int64_t> send_rows, receive_rows;  // per rank of the group
    Tensor to_experts, to_ranks;                        // [received] i32: gather indices
  };

  /// What is dispatched: for each kept slot s the row x[s / slots_per_row].
  struct Dispatched {
    Tensor x;  // [tokens, width] with slots_per_row = top_k, or [tokens * top_k, width] with 1
    std::int64_t slots_per_row;
    Tensor rows;  // [received, width], grouped by expert: there when finish_dispatch returns
  };

  /// Rows on their way.
  struct Transfer {
    struct Regrouped {
      Tensor arriving, rows;
      Pending pending;
    };
    Pending pending;
    Tensor rows;                       // what finish_combine adds
    std::vector<Regrouped> regrouped;  // what finish_dispatch has yet to regroup
  };

  /// How rows travel between ranks; by_backend: pieces on CPUs, regrouped on GPUs, where pieces are
  /// not possible. The same on every rank, and the same results.
  enum class Route : std::uint8_t { by_backend, pieces, regrouped };

  /// `experts` of the whole group.
  TokenExchange(Communicator& group, std::int64_t experts, Route route = Route::by_backend);

  /// False in a group of one, where dispatching moves no row to another rank.
  bool sends() const { return group_.size() > 1; }

  /// Fills `plan`, whose tensors outlive the call in the arena. On the meta device the slots are
  /// taken as spread evenly over the experts, rounded up.
  void make_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                 Plan& plan, ExecutionContext& context);

  Transfer start_dispatch(const Plan& plan, std::span<const Dispatched> dispatched,
                          ExecutionContext& context);
  void finish_dispatch(const Plan& plan, Transfer& transfer, ExecutionContext& context);

  /// Memory for what start_combine sends: the experts' rows [received, width], behind which there
  /// may be room for rows of other ranks' experts.
  Tensor allocate_rows(const Plan& plan, std::int64_t width, DType dtype, Arena& arena) const;

  /// Sends the experts' rows back. `rows` is of allocate_rows.
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

  /// Of `received`, for pieces. `kept` are the sent rows of each expert.
  void plan_pieces(const std::vector<std::int64_t>& kept, const std::vector<std::int64_t>& received,
                   Plan& plan) const;
  /// Of plan_pieces: slot_rows from sent rows to rows of allocate_rows.
  void renumber_slots(const Plan& plan) const;
  Tensor gather_leaving(const Plan& plan, const Dispatched& dispatched,
                        ExecutionContext& context) const;

  bool sends_pieces(const Stream& stream) const;

  Communicator& group_;
  std::int64_t experts_;
  std::int64_t local_experts_;
  Route route_;
};

}  // namespace polymoe
