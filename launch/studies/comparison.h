// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/studies/cell_result.h"
#include "launch/studies/statistics.h"
#include "launch/studies/study.h"

namespace polymoe {

/// Cells that differ in nothing but their seed.
struct SeedGroup {
  std::vector<std::size_t> values;  // per axis, which
  std::int64_t tokens = 0;
  double flops = 0.0;                // of one of them, from its first step
  std::vector<std::size_t> results;  // indices of those that finished and did not diverge
  std::size_t expected = 0;          // cells that the study has here
  Estimate loss;                     // over seeds
};

/// A group against the group that has the baseline in its place.
struct PairedDifference {
  std::size_t group = 0, baseline = 0;
  /// Loss minus the baseline's loss of the same seed, which read the same samples.
  Estimate difference;
  /// Compute of the baseline for this group's loss, over this group's own; above 1 is better.
  /// Between the lengths (branches) of the baseline's cells of the same size where its losses
  /// enclose this one, `by_curve` false; otherwise by the smoothed training curves: of the two, the
  /// worse one's whole run over the part of the better one's that reached its final loss. Nothing
  /// where neither can be told.
  std::optional<double> multiplier;
  bool by_curve = false;
};

struct Comparison {
  bool by_validation =
      false;  // whether losses are of validation: where every finished cell has one
  std::vector<SeedGroup> groups;
  std::vector<PairedDifference> differences;
};

/// The loss by which a cell is judged.
double judged_loss(const CellResult& result, bool by_validation);

Comparison compare(const Study& study, const std::vector<CellResult>& results);

/// "polynorm, 4, 10M tokens".
std::string name_of(const Study& study, const SeedGroup& group);

}  // namespace polymoe
