// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "moe/exchange_plan.h"
#include "parallel/communication/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// Moves token rows to the ranks that hold their experts, and back.
///
/// A token's row goes to a rank once, however many of its experts live there; the experts gather
/// their rows from what arrived and from this rank's own tokens, which are not moved at all. On the
/// way home a rank adds up what its experts made of a token, in the order of the token's slots, and
/// sends one row. At home a token's rows are added in the order of its slots: its own experts' one
/// by one, another rank's where the first slot of that rank stands. In a group of one nothing is
/// sent either way.
///
/// The router's weights travel once, as the plan's row_weights, and are applied by the experts to
/// their activations: there a weight meets a row that is in registers anyway and is rounded with
/// the activation, so that neither what is sent nor what is added is rounded once more for it.
///
/// Transfers come in two halves, between which other work may run: start_X takes memory from the
/// arena and posts the transfer, finish_X waits for it. Collective over the group.
class TokenExchange {
 public:
  /// Results on their way home.
  struct Transfer {
    Pending pending;
    Tensor results;  // what finish_combine adds from
  };

  /// `experts` of the whole group.
  TokenExchange(Communicator& group, std::int64_t experts, double planned_skew = 1.0)
      : group_(group), planner_(group, experts, planned_skew) {}

  /// See ExchangePlanner, whose parts these are.
  void begin_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                  ExchangePlan& plan, ExecutionContext& context);
  ExchangePlanner::Ids send_ids(const ExchangePlan& plan, const Tensor& weights,
                                ExecutionContext& context);
  void finish_plan(ExchangePlan& plan, ExchangePlanner::Ids& ids, ExecutionContext& context);

  /// Sends the rows of x [tokens, width] that leave. arrived [arriving, width]
  Pending start_dispatch(const ExchangePlan& plan, const Tensor& x, const Tensor& arrived,
                         ExecutionContext& context);
  /// rows [received, width], grouped by expert: from x and what arrived. `pending` may be done.
  void finish_dispatch(const ExchangePlan& plan, Pending& pending, const Tensor& x,
                       const Tensor& arrived, Tensor rows, ExecutionContext& context);

  /// Memory for the experts' rows [received, width], behind which there is room for what comes home
  /// from other ranks.
  Tensor allocate_results(const ExchangePlan& plan, std::int64_t width, DType dtype,
                          Arena& arena) const;
  /// Sends home the sum of each arrived row's results. `results` is of allocate_results.
  Transfer start_combine(const ExchangePlan& plan, const Tensor& results,
                         ExecutionContext& context);
  /// y[t] (+)= sum of token t's results.
  void finish_combine(const ExchangePlan& plan, Transfer& transfer, Write write, Tensor y,
                      ExecutionContext& context);

  /// The same for one number per slot, which is not summed: values is of allocate_slot_values and
  /// starts with the experts' [received, 1].
  Tensor allocate_slot_values(const ExchangePlan& plan, DType dtype, Arena& arena) const;
  Transfer start_combine_slots(const ExchangePlan& plan, const Tensor& values,
                               ExecutionContext& context);
  /// y [tokens, top_k]; 0 for dropped slots.
  void finish_combine_slots(const ExchangePlan& plan, Transfer& transfer, Tensor y,
                            ExecutionContext& context);

 private:
  Communicator& group_;
  ExchangePlanner planner_;
};

}  // namespace polymoe
