// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/fit.h"

#include <cstddef>
#include <cstdint>
#include <nlopt.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "launch/scaling/form.h"
#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe {
namespace {

constexpr double huber_delta = 1e-3;

/// What the solver works on.
struct Problem {
  std::vector<std::vector<std::vector<double>>> terms;  // per run
  std::vector<double> log_losses;
  std::vector<double> scratch;
};

Problem problem_of(ScalingForm form, const std::vector<ScalingRun>& runs,
                   const ScalingCentre& centre) {
  Problem problem;
  for (const ScalingRun& run : runs) {
    problem.terms.push_back(terms_of(form, run, centre));
    problem.log_losses.push_back(std::log(run.loss));
  }
  problem.scratch.resize(parameter_names(form).size());
  return problem;
}

double objective(const std::vector<double>& theta, std::vector<double>& gradient, void* data) {
  auto& problem = *static_cast<Problem*>(data);
  std::fill(gradient.begin(), gradient.end(), 0.0);
  double sum = 0.0;
  for (std::size_t i = 0; i < problem.terms.size(); ++i) {
    const double residual =
        log_loss(problem.terms[i], theta, problem.scratch.data()) - problem.log_losses[i];
    const double size = std::abs(residual);
    const bool small = size <= huber_delta;
    sum += small ? 0.5 * residual * residual : huber_delta * (size - 0.5 * huber_delta);
    if (gradient.empty()) continue;
    const double slope = small ? residual : std::copysign(huber_delta, residual);
    for (std::size_t p = 0; p < gradient.size(); ++p) gradient[p] += slope * problem.scratch[p];
  }
  // Near 1 for residuals of a percent, whatever the tolerances mean.
  constexpr double scale = 1e5;
  for (double& value : gradient) value *= scale;
  return scale * sum;
}

/// Moves theta to a minimum; returns the objective.
double minimise(Problem& problem, std::vector<double>& theta) {
  nlopt::opt solver(nlopt::LD_LBFGS, static_cast<unsigned>(theta.size()));
  solver.set_min_objective(objective, &problem);
  solver.set_ftol_rel(1e-10);
  solver.set_maxeval(1000);
  // Beyond, a term is nothing or everything.
  solver.set_lower_bounds(-20.0);
  solver.set_upper_bounds(20.0);
  double value = 0.0;
  std::vector<double> none;
  try {
    solver.optimize(theta, value);
  } catch (const nlopt::roundoff_limited&) {
    // theta is as good as rounding lets it be
  } catch (const std::runtime_error&) {
    // a line search without progress ends where it stood
  }
  return objective(theta, none, &problem);
}

double seed_noise(const std::vector<ScalingRun>& runs, double otherwise) {
  std::map<std::tuple<std::string, double, double, double, double>, std::vector<double>> cells;
  for (const ScalingRun& run : runs)
    cells[{run.label, run.parameters, run.tokens, run.experts, run.granularity}].push_back(
        std::log(run.loss));
  double squares = 0.0;
  std::size_t freedom = 0;
  for (const auto& [key, values] : cells) {
    double mean = 0.0;
    for (const double value : values) mean += value / static_cast<double>(values.size());
    for (const double value : values) squares += (value - mean) * (value - mean);
    freedom += values.size() - 1;
  }
  return freedom == 0 ? otherwise : std::sqrt(squares / static_cast<double>(freedom));
}

}  // namespace

ScalingFit fit_scaling_law(ScalingForm form, const std::vector<ScalingRun>& runs) {
  if (runs.empty()) throw InvalidArgument("scaling law: there is no finished run to fit");
  ScalingFit fit{.form = form, .centre = centre_of(runs), .theta = {}, .runs = runs.size()};
  Problem problem = problem_of(form, runs, fit.centre);
  std::vector<double> reached;
  fit.objective = std::numeric_limits<double>::infinity();
  for (std::vector<double> theta : start_grid(form, runs)) {
    const double value = minimise(problem, theta);
    reached.push_back(value);
    if (!(value < fit.objective)) continue;
    fit.objective = value;
    fit.theta = theta;
  }
  fit.starts = reached.size();
  for (const double value : reached)
    fit.starts_best += value <= fit.objective * 1.001 + 1e-9 ? 1 : 0;
  double squares = 0.0;
  for (const ScalingRun& run : runs)
    squares += std::pow(predicted(fit, run) - std::log(run.loss), 2.0);
  const auto count = static_cast<double>(runs.size());
  const auto parameters = static_cast<double>(fit.theta.size());
  fit.residual = std::sqrt(squares / std::max(count - parameters, 1.0));
  fit.seed_noise = seed_noise(runs, fit.residual);
  const double k = parameters + 1.0;
  fit.akaike = count - k - 1.0 > 0.0 ? count * std::log(squares / count) + 2.0 * k +
                                           2.0 * k * (k + 1.0) / (count - k - 1.0)
                                     : std::numeric_limits<double>::infinity();
  return fit;
}

double predicted(const ScalingFit& fit, const ScalingRun& run) {
  return log_loss(terms_of(fit.form, run, fit.centre), fit.theta, nullptr);
}

std::vector<std::vector<double>> bootstrap(const ScalingFit& fit,
                                           const std::vector<ScalingRun>& runs, int resamples,
                                           std::uint64_t seed) {
  std::map<std::string, std::vector<std::size_t>> by_trunk;
  for (std::size_t i = 0; i < runs.size(); ++i) by_trunk[runs[i].trunk].push_back(i);
  std::vector<std::vector<std::size_t>> trunks;
  for (const auto& [name, members] : by_trunk) trunks.push_back(members);
  const auto count = static_cast<double>(runs.size());
  // Absolute values are what such a fit minimises: it goes through as many runs as it has
  // parameters. Their zeros would make the next fit too sure, so part of each residual is smooth
  // noise of the same size; and what is left over is smaller than what least squares leave.
  constexpr double smooth = 0.5;
  const double inflation = count / std::max(count - static_cast<double>(fit.theta.size()), 1.0);
  const double kept = inflation * std::sqrt(1.0 - smooth * smooth);
  std::vector<double> fitted, residuals;
  for (const ScalingRun& run : runs) {
    fitted.push_back(predicted(fit, run));
    residuals.push_back(std::log(run.loss) - fitted.back());
  }
  double squares = 0.0;
  for (const double residual : residuals) squares += residual * residual;
  const double added = inflation * smooth * std::sqrt(squares / count);
  const RandomStream random(seed, "bootstrap of a scaling law");
  const RandomStream noise(seed, "smoothing of a bootstrap");
  std::uint64_t drawn = 0;
  Problem problem = problem_of(fit.form, runs, fit.centre);
  std::vector<std::vector<double>> draws;
  for (int resample = 0; resample < resamples; ++resample) {
    for (const std::vector<std::size_t>& trunk : trunks) {
      const std::uint64_t bits = random.bits(drawn++);
      const std::vector<std::size_t>& other = trunks[(bits >> 1) % trunks.size()];
      const double sign = (bits & 1) != 0 ? 1.0 : -1.0;
      const double shared = added * noise.normal(drawn);
      for (std::size_t i = 0; i < trunk.size(); ++i)
        problem.log_losses[trunk[i]] =
            fitted[trunk[i]] + sign * kept * residuals[other[i % other.size()]] + shared;
    }
    std::vector<double> theta = fit.theta;
    minimise(problem, theta);
    draws.push_back(std::move(theta));
  }
  return draws;
}

Range middle(std::vector<double>& values, double share) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double quantile) {
    const double place = quantile * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    const double part = place - static_cast<double>(below);
    return values[below] * (1.0 - part) + values[above] * part;
  };
  return {.low = at(0.5 - share / 2.0), .high = at(0.5 + share / 2.0)};
}

Prediction predict(const ScalingFit& fit, const std::vector<std::vector<double>>& draws,
                   const ScalingRun& run) {
  const auto terms = terms_of(fit.form, run, fit.centre);
  const RandomStream random(0, "noise of a further seed");
  std::vector<double> means, runs;
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const double value = log_loss(terms, draws[i], nullptr);
    means.push_back(std::exp(value));
    runs.push_back(std::exp(value + fit.seed_noise * random.normal(i)));
  }
  Prediction prediction{.loss = std::exp(log_loss(terms, fit.theta, nullptr))};
  if (draws.empty()) {
    const Range point{.low = prediction.loss, .high = prediction.loss};
    prediction.mean_80 = prediction.mean_95 = prediction.run_80 = prediction.run_95 = point;
    return prediction;
  }
  prediction.mean_80 = middle(means, 0.8);
  prediction.mean_95 = middle(means, 0.95);
  prediction.run_80 = middle(runs, 0.8);
  prediction.run_95 = middle(runs, 0.95);
  return prediction;
}

}  // namespace polymoe
