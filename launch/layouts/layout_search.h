// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/layouts/step_model.h"
#include "runtime/files/json.h"

namespace polymoe {

/// A layout that fits, with what its step takes.
struct RankedLayout {
  EstimatedLayout layout;
  StepEstimate step;
  std::vector<std::string> extrapolations;

  double tokens_per_second() const;
  std::size_t memory() const;  // of a rank
};

/// Where to look.
struct LayoutSearch {
  Config config;                   // of the run
  std::vector<std::string> fixed;  // keys that are not varied: "parallel.expert"
  int ranks = 1;
  int ranks_per_node = 1;
  std::size_t memory = 0;  // bytes of a rank
};

/// The keys that are varied: parallel.expert, train.micro_batch, train.recompute,
/// optimizer.moment_dtype.
const std::vector<std::string>& layout_keys();

/// Every layout whose plan fits, the fastest first. Micro-batches are all that make even
/// shares, or else the automatic one. Throws InvalidArgument with the violations where no layout is
/// valid at all, and with the least that one needs where none fits.
std::vector<RankedLayout> search_layouts(const StepModel& model, const LayoutSearch& search);

/// A line for each of the first `most` layouts, and what stars mean.
std::string layout_table(const std::vector<RankedLayout>& layouts, std::size_t most);
Json layouts_json(const std::vector<RankedLayout>& layouts);

/// The keys of a layout, as they are given to `polymoe train`.
std::vector<std::string> layout_overrides(const EstimatedLayout& layout);

}  // namespace polymoe
