// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "launch/config/config.h"
#include "moe/exchange_traffic.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// What the exchange of rows costs a rank in a step, so that one sees what to mend: how much is
/// sent, how fast it travels, how much of that is waited for, or how unevenly rows come.
struct ExchangeCost {
  std::int64_t transfers =
      0;               // dispatch and combine, forward and backward, of every layer and pass
  double bytes = 0.0;  // sent, mean over ranks; rows, experts and weights
  double rows = 0.0;   // of these, one per token and other rank
  double slots = 0.0;  // (token, expert) pairs that they serve
  double bytes_per_second = 0.0;   // of this rank's link, measured with transfers of the mean size
  double seconds_waited = 0.0;     // of this rank: for rows, counts, and the slowest rank
  double fullest_over_mean = 1.0;  // rows of the fullest rank's experts, mean over layers

  double seconds_on_link() const { return bytes_per_second > 0.0 ? bytes / bytes_per_second : 0.0; }
  /// Share of the link's time that other work covered.
  double hidden() const;
};

/// `traffic` of this rank's layers in `steps` steps, of which each waited `seconds_waited`. All
/// zero where nothing is exchanged. Collective over the mesh.
ExchangeCost exchange_cost(const std::vector<ExchangeTraffic>& traffic, int steps,
                           double seconds_waited, const Config& config, const ProcessMesh& mesh,
                           ExecutionContext& context);

}  // namespace polymoe
