// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/dispatch.h"
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
/// expert_ids  [tokens, top_k] i32
/// weights     [tokens, top_k]  read only by DropPolicy::probability
/// counts      [experts] i64      kept rows per expert
/// row_slots   [tokens * top_k] i32  row -> slot, grouped by expert; -1 beyond the last kept row
/// slot_rows   [tokens, top_k] i32   slot -> row; -1 where dropped
///
/// Asynchronous on `stream`.
void dispatch_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                   Tensor counts, Tensor row_slots, Tensor slot_rows, Arena& scratch,
                   Stream& stream);

/// out[r] = x[indices[r] / divisor]: with row slots and divisor = top_k, the tokens' rows in expert
/// order; with divisor 1, any permutation.
///
/// x [n, width]; indices [rows] i32 >= 0; out [rows, width]; f32, f64 or i32
void gather_rows(const Tensor& x, const Tensor& indices, std::int64_t divisor, Tensor out,
                 Stream& stream);

/// y[t] (+)= sum over j of rows[slot_rows[t, j]], j ascending, dropped slots (-1) left out:
/// combine forward, and dispatch backward.
///
/// rows [n, width]; slot_rows [tokens, top_k] i32; y [tokens, width]
void sum_rows(const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y, Stream& stream);

}  // namespace polymoe
