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

/// A fitted law with all that predictions need: fit.json.
struct ScalingLaw {
  ScalingFit fit;
  ParameterCount count = ParameterCount::active;
  std::string activation;
  std::vector<std::vector<double>> draws;  // of the bootstrap
  double largest_flops = 0.0;
  Range parameters = {}, tokens = {};       // of the runs
  double flops_per_parameter_token = 0.0;   // mean over the runs; 6 in theory
  double memory_per_parameter = 0.0;        // stored parameters per N, of the largest run
  double experts = 1.0, granularity = 1.0;  // of the largest run
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

/// The best use of a budget of `flops`, N at most `most_parameters`: the N of the lowest predicted
/// loss with D = flops / (k N). The interval is of N and D over the bootstrap.
struct Optimum {
  ScalingRun run;
  Prediction prediction;
  Range parameters_80 = {}, tokens_80 = {};
  bool at_edge = false;  // of the sizes that were tried: a factor of 1000 around the fitted ones
};
Optimum best_for_flops(const ScalingLaw& law, double flops, double most_parameters);

}  // namespace polymoe
