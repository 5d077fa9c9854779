// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/layouts/measured_step.h"
#include "launch/step/memory_plan.h"

namespace polymoe {

/// Seconds of a step, by what they go into.
struct StepEstimate {
  double compute = 0.0;    // forward and backward passes, and rows moved within a rank
  double exchange = 0.0;   // rows that travel to other ranks' experts and back
  double reduction = 0.0;  // of gradients, as far as no backward pass covers it
  double optimizer = 0.0;  // update, and the new values on their way to the other ranks
  double other = 0.0;      // data, and what has no name

  double total() const { return compute + exchange + reduction + optimizer + other; }
};

/// A run to be estimated.
struct EstimatedLayout {
  Config config;  // with a micro-batch
  int ranks = 1;
  int ranks_per_node = 1;
  MemoryPlan plan = {};
};

/// Steps of layouts that were not measured, from steps that were: the same work, counted, at the
/// rates that the measured step had. What it takes for granted:
///
/// - Experts are chosen evenly. Waiting for a fuller rank is in none of the terms.
/// - Rows that travel are not hidden behind work; gradients are, on GPUs, by the backward pass of
///   the step's last micro-batch.
/// - Ranks of one CPU node share its cores and its memory, whatever their number; GPUs are a rank's
///   own, and so is its link.
/// - Products reach the same rate with another micro-batch. What a smaller one costs is that every
///   pass reads and writes the gradients again.
class StepModel {
 public:
  /// `measured` has at least one step, all on CPUs or all on GPUs. `link` where it is known
  /// replaces the measured one where ranks are on several nodes. Throws InvalidArgument otherwise.
  StepModel(std::vector<MeasuredStep> measured, const LinkRates& link_between_nodes);

  bool on_gpu() const { return measured_.front().on_gpu; }
  /// The measured step that a layout's rates come from: the nearest in ranks.
  const MeasuredStep& nearest(int ranks) const;

  /// Throws InvalidArgument where ranks exchange anything and no link is known.
  StepEstimate estimate(const EstimatedLayout& layout) const;
  /// Why an estimate is less sure than the measured steps: lines; none within what the model was
  /// checked on, which is up to 2 GPUs, and of CPUs what was measured itself (docs/performance.md).
  std::vector<std::string> extrapolations(const EstimatedLayout& layout) const;

 private:
  struct Work;
  struct Rates;
  Work work_of(const EstimatedLayout& layout) const;
  Rates rates_of(const MeasuredStep& measured) const;
  static double gather_seconds(const Work& work, const LinkRates& link);
  /// What of the reduction the backward passes of a step, `backward` seconds, do not cover.
  double exposed_reduction(const Work& work, const LinkRates& link, double backward) const;
  /// A rank's links; slower than measured where more ranks share a node.
  LinkRates link_of(int ranks, int ranks_per_node) const;

  std::vector<MeasuredStep> measured_;
  LinkRates between_nodes_;
};

}  // namespace polymoe
