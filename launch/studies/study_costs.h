// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launch/studies/study.h"

namespace polymoe {

/// What one cell takes.
struct CellCost {
  std::int64_t total_parameters = 0;
  std::int64_t active_parameters = 0;
  std::int64_t tokens = 0;  // that it trains on itself: a branch's begin behind its fork
  double flops = 0.0;       // of forward and backward pass over them
  std::size_t memory = 0;   // bytes of a rank
  double seconds = 0.0;     // 0 where no rate is known
};

/// Plans every cell, as `polymoe plan` does.
std::vector<CellCost> plan_cells(const Study& study);

/// Operations per second that a measured step reached: of the JSON of `polymoe bench`. Throws
/// InputFileError where the file holds no step.
double measured_flops_per_second(const std::filesystem::path& bench_json);

/// What exceeds the study's budget: "budget.flops = ...: ...". Empty if nothing does.
std::vector<std::string> budget_violations(const Study& study, const std::vector<CellCost>& costs);

/// The table of `polymoe study plan`.
std::string cost_table(const Study& study, const std::vector<CellCost>& costs);

}  // namespace polymoe
