// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "moe/exchange_plan.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// Moves token rows to the ranks that hold their experts, and back.
///
/// A token's row goes to a rank once, however many of its experts live there; the experts gather
/// their rows from what arrived and from this rank's own tokens, which are not moved at all. On the
/// way home a rank adds up what its experts made of a token, in the order of the token's slots, and
/// sends one row. At home the ranks' rows are added in the order in which the token's slots name
/// them; the home's own sum is one of them and rounded like them. In a group of one nothing is sent
/// and a token's results are added once.
///
/// In a group that is spread over nodes of several ranks each, a row goes to a node once: the rank
/// there with this rank's place passes it on, and on the way home adds up what its node made of it.
/// Of a token, then, the sum of each node is rounded.
///
/// The router's weights travel once, as the plan's row_weights, and are applied by the experts to
/// their activations: there a weight meets a row that is in registers anyway and is rounded with
/// the activation, so that neither what is sent nor what is added is rounded once more for it.
///
/// Transfers come in two halves, between which other work may run. Memory is taken from the arena
/// by allocate_X and start_X only. Collective over the group.
class TokenExchange {
 public:
  /// Results on their way home.
  struct Home {
    bool per_slot = false;  // a number per slot, not summed, in place of a row per source
    // By hop, [sources + leaving, width]: of what a source needs no hop for, and what comes home.
    std::vector<Tensor> sums;
    Tensor passed;   // [arriving by the first of two hops, width]: of rows passed on
    Tensor leaving;  // [arriving by the last hop, width]: of this rank's experts
    Tensor direct;   // in a group of one: the experts' rows
    Pending pending;
  };

  /// See ExchangePlanner.
  TokenExchange(const ExpertGroups& groups, std::int64_t experts, double row_budget,
                std::int64_t layer)
      : planner_(groups, experts, row_budget, layer) {}

  /// False in a group of one.
  bool sends() const { return planner_.hops() > 0; }

  /// See ExchangePlanner, whose parts these are.
  void begin_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                  ExchangePlan& plan, ExecutionContext& context);
  ExchangePlanner::Ids send_ids(const ExchangePlan& plan, ExecutionContext& context);
  void finish_plan(ExchangePlan& plan, ExchangePlanner::Ids& ids, ExecutionContext& context);

  /// Sends the rows of x [tokens, width] that leave. arrived [arriving, width]. Where there are two
  /// hops the first is over when it returns, for the device's work behind it.
  Pending start_dispatch(const ExchangePlan& plan, const Tensor& x, const Tensor& arrived,
                         ExecutionContext& context);
  void wait(Pending& arriving, ExecutionContext& context);
  /// Into rows [rows of the round, width], grouped by expert: those of own tokens, x [tokens,
  /// width], and those of what arrived.
  void scatter_own(const ExchangePlan& plan, const ExpertRound& round, const Tensor& x, Tensor rows,
                   ExecutionContext& context);
  void scatter_arrived(const ExchangePlan& plan, const ExpertRound& round, const Tensor& arrived,
                       Tensor rows, ExecutionContext& context);

  /// Room for results of `width` on their way; with `per_slot`, width is top_k.
  Home allocate_home(const ExchangePlan& plan, std::int64_t width, bool per_slot, DType dtype,
                     Arena& arena) const;
  /// Adds up the results of a round [rows, width], or [rows, 1] per slot: those of other ranks'
  /// tokens, which leave, and those of own ones. In a group of one `results` stay where they are
  /// until finish_home.
  void sum_arrived(const ExchangePlan& plan, const ExpertRound& round, const Tensor& results,
                   Home& home, ExecutionContext& context);
  void sum_own(const ExchangePlan& plan, const ExpertRound& round, const Tensor& results,
               Home& home, ExecutionContext& context);
  /// Sends what sum_arrived added up, after all rounds, by the last hop.
  void send_home(const ExchangePlan& plan, Home& home, ExecutionContext& context);
  /// The way home by the first of two hops, and y[t] (+)= token t's results: y [tokens, width].
  /// Dropped slots add nothing; per slot they are 0.
  void finish_home(const ExchangePlan& plan, Home& home, Write write, Tensor y,
                   ExecutionContext& context);

 private:
  ExchangePlanner planner_;
};

}  // namespace polymoe
