// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/scaling/form.h"

namespace polymoe {

/// A law fitted to runs.
struct ScalingFit {
  ScalingForm form = ScalingForm::chinchilla;
  ScalingCentre centre = {};
  std::vector<double> theta = {};  // centred
  double objective = 0.0;
  std::size_t runs = 0;
  std::size_t starts = 0;       // that were tried
  std::size_t starts_best = 0;  // that reached the best objective
  double akaike = 0.0;          // AICc, of squared residuals; infinite with too few runs
  double residual = 0.0;    // root of the mean squared residual of ln L, for the free parameters
  double seed_noise = 0.0;  // standard deviation of ln L between seeds of one cell, or `residual`
};

/// Minimises sum_i huber(ln L(theta, run_i) - ln loss_i), delta = 1e-3, summed and not averaged, so
/// that a solver's tolerances do not end it early (Besiroglu et al. 2024, arXiv:2404.10102), by
/// L-BFGS (NLopt) from every place of start_grid(). Throws InvalidArgument without a run.
ScalingFit fit_scaling_law(ScalingForm form, const std::vector<ScalingRun>& runs);

/// ln L.
double predicted(const ScalingFit& fit, const ScalingRun& run);

/// Fits of resampled runs, for intervals: residuals of whole trunks change places, with random
/// signs, scaled up for the parameters that the fit took. The design, which a study chose, stays.
std::vector<std::vector<double>> bootstrap(const ScalingFit& fit,
                                           const std::vector<ScalingRun>& runs, int resamples,
                                           std::uint64_t seed);

/// What lies between quantiles of values.
struct Range {
  double low = 0.0, high = 0.0;
};
/// The middle `share` of the values; they are sorted on return.
Range middle(std::vector<double>& values, double share);

/// The loss of a run, with and without the noise of one further seed.
struct Prediction {
  double loss = 0.0;
  Range mean_80 = {}, mean_95 = {};  // of the law
  Range run_80 = {}, run_95 = {};    // of one run
};
Prediction predict(const ScalingFit& fit, const std::vector<std::vector<double>>& draws,
                   const ScalingRun& run);

}  // namespace polymoe
