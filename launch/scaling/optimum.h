// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <optional>

#include "launch/scaling/law.h"

namespace polymoe {

/// What there is for a run: FLOP of training, or the tokens that it reads; and the parameters that
/// fit into memory. One of the first two is given.
struct ScalingBudget {
  std::optional<double> flops = {};
  std::optional<double> tokens = {};
  double most_stored = std::numeric_limits<double>::infinity();
};

/// The best use of a budget: the N of the lowest predicted loss, D being what the FLOP leave. Where
/// the law knows experts, also over their number, among those of its runs. The intervals are of the
/// same over the bootstrap.
struct Optimum {
  ScalingRun run;
  Prediction prediction;
  Range parameters_80 = {}, tokens_80 = {}, experts_80 = {};
  /// N lies at the edge of what was tried: memory, or a factor of 1000 around the fitted sizes.
  bool at_edge = false;
};
/// Throws InvalidArgument where memory does not hold even the smallest size that is tried.
Optimum best_for(const ScalingLaw& law, const ScalingBudget& budget);

}  // namespace polymoe
