// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/feed_forward/feed_forward.h"
#include "parallel/communication/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// What goes where for one micro-batch. Kept for backward.
///
/// A token's row goes to a rank once, however many of its experts live there. An expert's rows are
/// those of this rank's own tokens, in their order, then those that arrived, by rank and in the
/// order of that rank's tokens: a row is known by its slot in (own tokens, arrived rows) x top_k.
struct ExchangePlan {
  std::int64_t tokens = 0;  // of this rank
  std::int64_t top_k = 0;
  Tensor counts;  // [experts] i64: kept slots of this rank's tokens

  // Rows between ranks, grouped by rank; none is for this rank itself.
  std::vector<std::int64_t> leaving_rows, arriving_rows;  // per rank of the group
  std::int64_t leaving = 0, arriving = 0;
  Tensor leaving_slots;  // [leaving] i32: the slot that sends the row; of token slot / top_k

  // Rows of this rank's experts.
  ExpertOffsets offsets;
  std::int64_t received = 0;
  Tensor row_slots;    // [received] i32: expert's row -> slot
  Tensor slot_rows;    // [tokens + arriving, top_k] i32: and back; -1 where the expert is elsewhere
  Tensor row_weights;  // [received, 1] the router's weight of the slot

  // Where a token finds its results: see find_home_rows.
  Tensor home_rows, home_slots;  // [tokens, top_k] i32
};

/// Makes plans. Two parts, between which rows may be sent already: the first knows how many rows
/// go where, the second which expert wants which.
class ExchangePlanner {
 public:
  /// What travels between the parts, in memory of the arena.
  struct Ids {
    Tensor experts;  // [tokens + arriving, top_k] i32
    Tensor weights;  // [tokens + arriving, top_k]
    Pending experts_pending, weights_pending;
  };

  /// `experts` of the whole group; `planned_skew` as in MoeConfig.
  ExchangePlanner(Communicator& group, std::int64_t experts, double planned_skew = 1.0);

  /// Counts, sizes and what leaves. All tensors of the plan are there afterwards and outlive the
  /// call in the arena; row_slots, slot_rows, row_weights and home_* are filled by the second part.
  /// On the meta device the slots are taken as spread evenly and at random over the experts,
  /// rounded up, and planned_skew times as many at this rank. Collective; waits for the device.
  void begin(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
             ExchangePlan& plan, ExecutionContext& context) const;

  /// Sends the experts and weights of the rows that leave. Collective.
  Ids send_ids(const ExchangePlan& plan, const Tensor& weights, ExecutionContext& context) const;
  void finish(ExchangePlan& plan, Ids& ids, ExecutionContext& context) const;

 private:
  struct HostCounts;
  HostCounts exchange_counts(const Tensor& counts, std::int64_t tokens, std::int64_t top_k,
                             Stream& stream) const;
  HostCounts planned_counts(std::int64_t tokens, std::int64_t top_k) const;
  std::int64_t first_expert() const { return experts_per_rank_ * group_.rank(); }

  Communicator& group_;
  std::int64_t experts_;
  std::int64_t experts_per_rank_;
  double planned_skew_;
};

}  // namespace polymoe
