// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "launch/studies/cell_state.h"
#include "launch/studies/study.h"

namespace polymoe {

/// A training curve: a point per step.
struct Curve {
  std::vector<double> tokens;
  std::vector<double> loss;
};

/// What a cell came to, as far as it is.
struct CellResult {
  std::size_t cell = 0;  // index in the study
  CellState state;
  bool diverged = false;             // exit code 86, or it ends above where it was
  std::int64_t spikes = 0;           // steps whose loss jumped
  Curve curve;                       // of a branch with its trunk's part
  std::optional<double> train_loss;  // mean of the last twentieth of the steps
  std::optional<double> valid_loss;  // of the last step
};

/// Reads CELL/metrics.jsonl of every cell that has one; a row that was cut off by a crash counts as
/// not there.
std::vector<CellResult> read_results(const Study& study);

/// Steps whose loss exceeds the mean of the 32 before it by half a nat and by six of their standard
/// deviations; a jump that lasts counts once. The first 32 steps are none.
std::int64_t count_spikes(const std::vector<double>& loss);

/// Whether a curve ends, by the mean of its last twentieth, half a nat above its lowest such mean.
bool ends_high(const std::vector<double>& loss);

/// Mean over the window behind each point, of a twentieth of the curve.
std::vector<double> smoothed(const std::vector<double>& loss);

}  // namespace polymoe
