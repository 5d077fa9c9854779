// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Which slots an expert takes when it has more than its capacity.
enum class DropPolicy : std::uint8_t {
  position,     // earlier tokens first
  probability,  // larger weights first (ties: earlier token first)
};

/// Slots per expert and segment; 0 = no limit (dropless).
struct ExpertCapacity {
  std::int64_t slots = 0;
  std::int64_t segment_tokens = 0;
  DropPolicy policy = DropPolicy::position;
};

/// Counting sort of the (token, choice) slots by expert, stable in the slot index
/// s = token * top_k + choice.
///
/// expert_ids  [tokens, top_k] i32 in [0, experts), or -1: the slot goes to none, and is dropped
/// weights     [tokens, top_k] f32, on the CPU f32 or f64; only read by DropPolicy::probability,
///             else it may be undefined
/// counts      [experts] i64         kept rows per expert
/// row_slots   [tokens * top_k] i32  row -> slot, grouped by expert; -1 beyond the last kept row
/// slot_rows   [tokens, top_k] i32   slot -> row; -1 where dropped
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch, on a segment that does not
/// divide the tokens, and on more slots than an i32 numbers.
void dispatch_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                   Tensor counts, Tensor row_slots, Tensor slot_rows, Arena& scratch,
                   Stream& stream);

/// Counting sort of the slots by group, stable in the slot index: group g has the slots whose id is
/// first + g. Slots with any other id belong to none.
///
/// ids        [tokens, top_k] i32
/// counts     [groups] i64           slots of each group
/// row_slots  [tokens * top_k] i32   row -> slot, by group; -1 beyond the last row
/// slot_rows  [tokens, top_k] i32    slot -> row; -1 of slots in no group
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch, and on more slots than an i32
/// numbers.
void group_slots(const Tensor& ids, std::int64_t first, Tensor counts, Tensor row_slots,
                 Tensor slot_rows, Arena& scratch, Stream& stream);

/// out[r] = x[indices[r] / divisor]: with row slots and divisor = top_k, the tokens' rows in expert
/// order; with divisor 1, any permutation.
///
/// x [n, width] or [n]; indices [rows] i32 >= 0; out [rows, width] or [rows]; f32, f64, bf16 or i32
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void gather_rows(const Tensor& x, const Tensor& indices, std::int64_t divisor, Tensor out,
                 Stream& stream);

/// Gathers from x and `more`, whose rows are counted on behind x's; undefined, it has none.
void gather_rows(const Tensor& x, const Tensor& more, const Tensor& indices, std::int64_t divisor,
                 Tensor out, Stream& stream);

/// out[slot_rows[t, j]] = x[t], dropped slots (-1) left out: dispatch forward, and combine
/// backward. Each row of x is read once, where gather_rows by row slots reads it for each of its
/// slots. Rows of `out` that no slot names keep what they have.
///
/// x [tokens, width]; slot_rows [tokens, top_k] i32, no row twice; out [rows, width]; f32, f64 or
/// bf16
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void scatter_rows(const Tensor& x, const Tensor& slot_rows, Tensor out, Stream& stream);

/// y[t] = sum over j of rows[slot_rows[t, j]], or y[t] added to it, j ascending, dropped slots (-1)
/// left out: combine forward, and dispatch backward.
///
/// rows [n, width]; slot_rows [tokens, top_k] i32; y [tokens, width]; f32 or f64 on the CPU, f32 or
/// bf16 on CUDA, where a sum is f32 and rounded once
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void sum_rows(const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y, Stream& stream);

}  // namespace polymoe
