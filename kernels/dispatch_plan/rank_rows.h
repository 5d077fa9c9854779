// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// How a group of ranks shares some of the experts: rank r has
/// [first_expert + r * experts_per_rank, first_expert + (r + 1) * experts_per_rank). In place of a
/// rank stands a node, where rows go from node to node.
struct ExpertRanks {
  std::int64_t experts_per_rank = 0;
  int own = 0;  // this rank
  std::int64_t first_expert = 0;
  int ranks = 1;
};

/// Which slots send their token's row to another rank: of a token's slots with experts of one rank
/// the first, so that a token goes to a rank once however many of its experts live there.
///
/// expert_ids     [tokens, top_k] i32
/// slot_rows      [tokens, top_k] i32  of dispatch_plan: negative where the slot is dropped
/// kept_ids [tokens, top_k] i32 the expert, counted from first_expert; -1 of dropped slots and
///                                     of experts that the group does not have; may alias slot_rows
/// leaving_ranks  [tokens, top_k] i32  the rank the slot sends the token to; -1 where it does not
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void find_leaving_ranks(const ExpertRanks& ranks, const Tensor& expert_ids, const Tensor& slot_rows,
                        Tensor kept_ids, Tensor leaving_ranks, Stream& stream);

/// Where a token finds what its experts made of it, in a buffer of a row per token, the sum over
/// its experts on this rank, and behind them a row per row that left, the sum over the token's
/// experts there; or in one of top_k values per row in place of a sum, one for each slot.
///
/// kept_ids      [tokens, top_k] i32  of find_leaving_ranks
/// leaving_rows  [tokens, top_k] i32  the slot's row among those that leave, -1 of other slots
/// home_rows     [tokens, top_k] i32  rows to add for the token: a rank's at the first slot of its
///                                    experts; -1 at other slots; may alias leaving_rows
/// home_slots    [tokens, top_k] i32  the slot's own value, -1 of dropped ones; may alias kept_ids
///
/// Asynchronous on `stream`. Throws InvalidArgument on a mismatch.
void find_home_rows(const ExpertRanks& ranks, const Tensor& kept_ids, const Tensor& leaving_rows,
                    Tensor home_rows, Tensor home_slots, Stream& stream);

}  // namespace polymoe
