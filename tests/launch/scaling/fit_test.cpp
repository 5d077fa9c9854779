// SPDX-License-Identifier: Apache-2.0
// Scaling laws recovered from made-up runs whose law is known.
#include "launch/scaling/fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

constexpr double floor_loss = 1.7, factor_n = 400.0, alpha = 0.34, factor_d = 1000.0, beta = 0.37;

double law(const ScalingRun& run) {
  return floor_loss + factor_n * std::pow(run.parameters, -alpha) +
         factor_d * std::pow(run.tokens, -beta);
}

/// Sizes of factors of 2 from 10 million on, tokens around `tokens_per_parameter` of each.
std::vector<ScalingRun> grid(double tokens_per_parameter, double noise, std::uint64_t seed) {
  const RandomStream random(seed, "made-up runs");
  std::vector<ScalingRun> runs;
  for (int size = 0; size < 6; ++size)
    for (int length = -2; length <= 2; ++length) {
      ScalingRun run;
      run.parameters = 1e7 * std::pow(2.0, size);
      run.tokens = tokens_per_parameter * run.parameters * std::pow(2.0, length);
      run.trunk = std::to_string(runs.size());
      run.flops = 6.0 * run.parameters * run.tokens;
      run.loss = law(run) * std::exp(noise * random.normal(runs.size()));
      runs.push_back(run);
    }
  return runs;
}

std::vector<double> fitted(ScalingForm form, const std::vector<ScalingRun>& runs) {
  const ScalingFit fit = fit_scaling_law(form, runs);
  return uncentred(form, fit.theta, fit.centre);
}

TEST(ScalingFitTest, ExponentsAreRecoveredAlsoOffCentre) {
  // Many tokens a parameter, or few: the grid's middle is far from the best one, which biases
  // parabolas through isoflops, but not this.
  for (const double tokens_per_parameter : {2.0, 20.0, 200.0}) {
    const std::vector<double> exact =
        fitted(ScalingForm::chinchilla, grid(tokens_per_parameter, 0.0, 0));
    EXPECT_NEAR(exact[2], alpha, 0.002 * alpha) << tokens_per_parameter;
    EXPECT_NEAR(exact[4], beta, 0.002 * beta) << tokens_per_parameter;
    EXPECT_NEAR(std::exp(exact[0]), floor_loss, 0.002);
    double mean_alpha = 0.0, mean_beta = 0.0;
    constexpr int draws = 20;
    for (int draw = 0; draw < draws; ++draw) {
      const auto theta = fitted(ScalingForm::chinchilla,
                                grid(tokens_per_parameter, 5e-4, static_cast<std::uint64_t>(draw)));
      mean_alpha += theta[2] / draws;
      mean_beta += theta[4] / draws;
    }
    EXPECT_NEAR(mean_alpha, alpha, 0.02 * alpha) << tokens_per_parameter;
    EXPECT_NEAR(mean_beta, beta, 0.02 * beta) << tokens_per_parameter;
  }
}

TEST(ScalingFitTest, IntervalsCoverTheTruthAsOftenAsTheySay) {
  constexpr int draws = 200, resamples = 300;
  int of_alpha = 0, of_beta = 0;
  for (int draw = 0; draw < draws; ++draw) {
    const auto seed = static_cast<std::uint64_t>(draw);
    const std::vector<ScalingRun> runs = grid(20.0, 3e-3, seed);
    const ScalingFit fit = fit_scaling_law(ScalingForm::chinchilla, runs);
    std::vector<double> alphas, betas;
    for (const auto& theta : bootstrap(fit, runs, resamples, seed)) {
      alphas.push_back(theta[2]);
      betas.push_back(theta[4]);
    }
    const Range a = middle(alphas, 0.8), b = middle(betas, 0.8);
    of_alpha += a.low <= alpha && alpha <= a.high ? 1 : 0;
    of_beta += b.low <= beta && beta <= b.high ? 1 : 0;
  }
  // 75 to 85 of 100; the seeds are fixed.
  EXPECT_GE(of_alpha, 150);
  EXPECT_LE(of_alpha, 170);
  EXPECT_GE(of_beta, 150);
  EXPECT_LE(of_beta, 170);
}

TEST(ScalingFitTest, TheOtherFormsFitRunsOfTheirOwnLaw) {
  std::vector<ScalingRun> experts, fine;
  for (const ScalingRun& run : grid(20.0, 0.0, 0))
    for (const double many : {1.0, 4.0, 16.0}) {
      ScalingRun moe = run;
      moe.experts = many;
      const double x = std::log(many);
      moe.loss = 1.5 + 300.0 * std::pow(many, -0.1) * std::pow(run.parameters, -0.33 + 0.01 * x) +
                 900.0 * std::pow(many, 0.05) * std::pow(run.tokens, -0.36 - 0.005 * x);
      experts.push_back(moe);
      ScalingRun granular = run;
      granular.granularity = many;
      granular.loss = 1.5 +
                      (100.0 * std::pow(many, -0.6) + 200.0) * std::pow(run.parameters, -0.33) +
                      900.0 * std::pow(run.tokens, -0.36);
      fine.push_back(granular);
    }
  const std::vector<double> moe = fitted(ScalingForm::moe, experts);
  EXPECT_NEAR(moe[3], 0.33, 0.02 * 0.33);
  EXPECT_NEAR(moe[7], 0.36, 0.02 * 0.36);
  const std::vector<double> granularity = fitted(ScalingForm::granularity, fine);
  EXPECT_NEAR(granularity[4], 0.33, 0.02 * 0.33);
  EXPECT_NEAR(granularity[6], 0.36, 0.02 * 0.36);
  // The law that ignores experts fits worse, and is told apart.
  EXPECT_LT(fit_scaling_law(ScalingForm::moe, experts).akaike,
            fit_scaling_law(ScalingForm::chinchilla, experts).akaike);
}

TEST(ScalingFitTest, NoiseOfSeedsIsThatOfRepeatedRuns) {
  std::vector<ScalingRun> runs = grid(20.0, 0.0, 0);
  const std::size_t once = runs.size();
  for (std::size_t i = 0; i < once; ++i) {
    ScalingRun again = runs[i];
    again.trunk += "b";
    again.loss *= std::exp(i % 2 == 0 ? 0.01 : -0.01);
    runs.push_back(again);
  }
  const ScalingFit fit = fit_scaling_law(ScalingForm::chinchilla, runs);
  EXPECT_NEAR(fit.seed_noise, 0.01 / std::sqrt(2.0), 1e-6);
  EXPECT_THROW(fit_scaling_law(ScalingForm::chinchilla, {}), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
