// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/dispatch_plan/rank_rows.h"
#include "kernels/feed_forward/feed_forward.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// Rows of this rank's experts that are worked off together: those of consecutive sources.
struct ExpertRound {
  std::int64_t begin = 0, end = 0;  // sources
  std::int64_t first_row = 0;       // among the experts' rows of all rounds
  ExpertOffsets offsets;
  std::vector<std::int64_t> early;  // per expert: rows known to be of own tokens, in front
  Tensor row_slots;                 // [rows] i32: expert's row -> slot, counted from source `begin`
  Tensor slot_rows;  // [end - begin, top_k] i32: and back; -1 where the expert is elsewhere

  std::int64_t rows() const { return offsets.back(); }
};

/// One leg of the rows' way to their experts.
struct ExchangeHop {
  std::int64_t sources = 0;  // rows it may send: this rank's tokens, then what earlier hops brought
  // Rows between the ranks of its group; none is for this rank itself.
  std::vector<std::int64_t> leaving_rows, arriving_rows;
  std::int64_t leaving = 0, arriving = 0;
  Tensor leaving_slots;  // [leaving] i32: the slot that sends the row; of source slot / top_k
  // Where a source finds what comes home by this hop: see find_home_rows.
  Tensor home_rows, home_slots;  // [sources, top_k] i32
};

/// What goes where for one micro-batch. Kept for backward.
///
/// A token's row goes to a rank once, however many of its experts live there: in one hop, or, where
/// the group is spread over nodes of several ranks, in two. Then it goes to a node once, to the
/// rank there that has this rank's place among its node's, and from it to the node's ranks. The
/// sources of this rank's experts are its own tokens, in their order, then the rows that arrived,
/// by hop, by rank and in the order of that rank's sources. An expert's rows are in the order of
/// their sources.
///
/// Rows come as the router sends them, and nothing bounds how many a rank's experts have but the
/// number of sources. Where they are more than the budget, they are worked off in rounds of
/// consecutive sources, so that memory does not depend on the routing.
struct ExchangePlan {
  std::int64_t tokens = 0;  // of this rank
  std::int64_t top_k = 0;
  Tensor counts;  // [experts] i64: kept slots of this rank's tokens

  std::vector<ExchangeHop> hops;        // none in a group of one
  std::int64_t leaving_slot_count = 0;  // slots of this rank's tokens with experts of other ranks
  // Experts, -1 of dropped slots, and weights of the last hop's sources; until they are sent.
  Tensor source_ids, source_weights;  // [sources of the hop, top_k]

  // Rows of this rank's experts.
  std::int64_t received = 0;
  bool at_once = true;          // in one round
  std::int64_t round_rows = 0;  // most of a round
  std::vector<ExpertRound> rounds;
  Tensor row_weights;  // [received, 1] the router's weight of the slot

  std::int64_t leaving() const;   // by all hops
  std::int64_t arriving() const;  // likewise
  std::int64_t sources() const { return tokens + arriving(); }
};

/// Makes plans. Two parts, between which rows may be sent already: the first knows how many rows
/// go where, the second which expert wants which.
class ExchangePlanner {
 public:
  /// What travels between the parts, in memory of the arena.
  struct Ids {
    Tensor experts;  // [sources, top_k] i32
    Tensor weights;  // [sources, top_k]
    Pending experts_pending, weights_pending;
  };

  /// `experts` of all ranks. `row_budget`: rows of a round, as a multiple of what a rank has
  /// when all are spread evenly; at least 1. `layer` is what ranks know each other's exchange by.
  ExchangePlanner(const ExpertGroups& groups, std::int64_t experts, double row_budget,
                  std::int64_t layer);

  std::size_t hops() const { return ways_.size(); }
  /// The ranks between which rows go by a hop.
  Communicator& group(std::size_t hop) const { return ways_[hop].group; }

  /// Counts, sizes and what leaves. All tensors of the plan are there afterwards, or have their
  /// place, and outlive the call in the arena. On the meta device every token goes to every rank
  /// and a rank's experts have a full budget: no routing takes more. Collective; waits for the
  /// device, and where there are two hops for the experts' names to pass the first. Throws
  /// CommunicationError, before any row is posted, where a rank announces the rows of another layer
  /// or model, or more or fewer than its experts' slots allow.
  void begin(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
             ExchangePlan& plan, ExecutionContext& context) const;

  /// Sends the experts and weights of the rows that leave. Collective.
  Ids send_ids(const ExchangePlan& plan, ExecutionContext& context) const;
  /// The rounds, row_weights and home_*. Waits for the device only where there are several rounds.
  void finish(ExchangePlan& plan, Ids& ids, ExecutionContext& context) const;

 private:
  /// Who a hop's ranks are, and how they, or the nodes that they stand for, share which experts.
  struct Way {
    Communicator& group;
    ExpertRanks experts;
    const char* name;
    std::int64_t count() const { return experts.experts_per_rank * experts.ranks; }
  };
  struct HostCounts;

  HostCounts plan_alone(const Tensor& expert_ids, const Tensor& weights,
                        const ExpertCapacity& capacity, ExchangePlan& plan,
                        ExecutionContext& context) const;
  HostCounts plan_hops(const Tensor& expert_ids, const Tensor& weights,
                       const ExpertCapacity& capacity, ExchangePlan& plan,
                       ExecutionContext& context) const;
  HostCounts plan_hop(const Way& way, const Tensor& ids, const Tensor& slot_rows,
                      const Tensor& counts, const Tensor& sorted_slots, ExchangePlan& plan,
                      ExecutionContext& context) const;
  HostCounts exchange_counts(const Way& way, const Tensor& counts, const ExchangePlan& plan,
                             ExecutionContext& context) const;
  void check_announced(const Way& way, int peer, std::span<const std::int64_t> announced,
                       std::int64_t top_k) const;
  std::int64_t signature(std::int64_t top_k) const;
  std::vector<std::int64_t> planned_rows(const ExchangePlan& plan) const;
  /// Starts what a hop may send: `all` gets it, and behind it what arrives.
  Pending start_passing(std::size_t hop, const ExchangePlan& plan, const Tensor& own,
                        const Tensor& all, ExecutionContext& context) const;
  std::int64_t budget_rows(std::int64_t tokens, std::int64_t top_k) const;
  std::int64_t most_rows_of_source(const ExchangePlan& plan) const;
  void make_rounds(ExchangePlan& plan, const Tensor& ids, ExecutionContext& context) const;
  std::int64_t first_expert() const { return experts_per_rank_ * rank_; }

  std::vector<Way> ways_;  // of the hops
  int rank_, ranks_;       // of the whole group
  std::int64_t experts_;
  std::int64_t experts_per_rank_;
  double row_budget_;
  std::int64_t layer_;
};

}  // namespace polymoe
