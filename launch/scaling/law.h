// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/scaling/fit.h"
#include "launch/scaling/runs.h"
#include "runtime/files/json.h"

namespace polymoe {

/// A straight line over the experts for one that a token takes: what the other experts add.
struct AlongExperts {
  double base = 0.0, slope = 0.0;
  double at(double experts) const { return base + slope * experts; }
};

/// A fitted law with all that predictions need: fit.json.
struct ScalingLaw {
  ScalingFit fit;
  ParameterCount count = ParameterCount::active;
  std::string activation;
  std::vector<std::vector<double>> draws;  // of the bootstrap
  double largest_flops = 0.0;
  Range parameters = {}, tokens = {};  // of the runs
  Range experts = {.low = 1.0, .high = 1.0};
  AlongExperts tokens_per_flop;  // N D of a FLOP; 1/6 in theory
  AlongExperts stored;           // parameters that are stored for one of N
  double granularity = 1.0;      // of the largest run
};

/// Terms of the law that are less than a thousandth of the loss of every run, as its formula names
/// them: "E". The runs do not determine them, and a prediction where they would matter is worth
/// nothing, whatever its interval.
std::vector<std::string> undetermined_terms(const ScalingFit& fit,
                                            const std::vector<ScalingRun>& runs);

/// How far N and D of a run lie outside those that the law was fitted to, where that is more than
/// ten times: a line for each.
std::vector<std::string> far_from_runs(const ScalingLaw& law, const ScalingRun& run);

/// Why these runs cannot carry a law of that form: too few runs, an axis of fewer than 3 levels.
std::vector<std::string> fit_violations(ScalingForm form, const std::vector<ScalingRun>& runs);

/// The runs of the largest N predicted by a law of the others.
struct HeldOut {
  double parameters = 0.0;
  struct Run {
    ScalingRun run;
    Prediction prediction;
    bool within_80 = false, within_95 = false;
  };
  std::vector<Run> runs;
  double mean_error = 0.0;  // of ln L, absolute
};
/// Nothing where the others cannot carry a law.
std::optional<HeldOut> hold_out_largest(ScalingForm form, const std::vector<ScalingRun>& runs,
                                        int resamples);

ScalingLaw make_law(ScalingForm form, const std::vector<ScalingRun>& runs, ParameterCount count,
                    const std::string& activation, int resamples);

Json law_json(const ScalingLaw& law);
/// Throws InputFileError on anything else.
ScalingLaw read_law(const std::filesystem::path& file);

}  // namespace polymoe
