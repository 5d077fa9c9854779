// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/form.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace polymoe {

const char* name_of(ScalingForm form) {
  switch (form) {
    case ScalingForm::chinchilla:
      return "chinchilla";
    case ScalingForm::moe:
      return "moe";
    case ScalingForm::granularity:
      break;
  }
  return "granularity";
}

const char* formula_of(ScalingForm form) {
  switch (form) {
    case ScalingForm::chinchilla:
      return "L = E + A N^-alpha + B D^-beta";
    case ScalingForm::moe:
      return "L = E + A X^delta N^-(alpha + gamma ln X) + B X^omega D^-(beta + zeta ln X)";
    case ScalingForm::granularity:
      break;
  }
  return "L = E + (g G^-gamma + A) N^-alpha + B D^-beta";
}

const std::vector<std::string>& parameter_names(ScalingForm form) {
  static const std::vector<std::string> chinchilla = {"log E", "log A", "alpha", "log B", "beta"};
  static const std::vector<std::string> moe = {"log E", "log A", "delta", "alpha", "gamma",
                                               "log B", "omega", "beta",  "zeta"};
  static const std::vector<std::string> granularity = {"log E", "log g", "gamma", "log A",
                                                       "alpha", "log B", "beta"};
  switch (form) {
    case ScalingForm::chinchilla:
      return chinchilla;
    case ScalingForm::moe:
      return moe;
    case ScalingForm::granularity:
      break;
  }
  return granularity;
}

ScalingCentre centre_of(const std::vector<ScalingRun>& runs) {
  ScalingCentre centre;
  for (const ScalingRun& run : runs) {
    centre.log_parameters += std::log(run.parameters) / static_cast<double>(runs.size());
    centre.log_tokens += std::log(run.tokens) / static_cast<double>(runs.size());
  }
  return centre;
}

std::vector<std::vector<double>> terms_of(ScalingForm form, const ScalingRun& run,
                                          const ScalingCentre& centre) {
  const double n = std::log(run.parameters) - centre.log_parameters;
  const double d = std::log(run.tokens) - centre.log_tokens;
  const double x = std::log(run.experts);
  const double g = std::log(run.granularity);
  switch (form) {
    case ScalingForm::chinchilla:
      return {{1, 0, 0, 0, 0}, {0, 1, -n, 0, 0}, {0, 0, 0, 1, -d}};
    case ScalingForm::moe:
      return {{1, 0, 0, 0, 0, 0, 0, 0, 0},
              {0, 1, x, -n, -x * n, 0, 0, 0, 0},
              {0, 0, 0, 0, 0, 1, x, -d, -x * d}};
    case ScalingForm::granularity:
      break;
  }
  return {{1, 0, 0, 0, 0, 0, 0},
          {0, 1, -g, 0, -n, 0, 0},
          {0, 0, 0, 1, -n, 0, 0},
          {0, 0, 0, 0, 0, 1, -d}};
}

double log_loss(const std::vector<std::vector<double>>& terms, const std::vector<double>& theta,
                double* gradient) {
  constexpr std::size_t most_terms = 4;
  std::array<double, most_terms> exponents{};
  for (std::size_t k = 0; k < terms.size(); ++k)
    for (std::size_t p = 0; p < theta.size(); ++p) exponents[k] += terms[k][p] * theta[p];
  const double most = *std::max_element(exponents.begin(), exponents.begin() + terms.size());
  double sum = 0.0;
  for (std::size_t k = 0; k < terms.size(); ++k) sum += std::exp(exponents[k] - most);
  if (gradient != nullptr) {
    std::fill_n(gradient, theta.size(), 0.0);
    for (std::size_t k = 0; k < terms.size(); ++k) {
      const double share = std::exp(exponents[k] - most) / sum;
      for (std::size_t p = 0; p < theta.size(); ++p) gradient[p] += share * terms[k][p];
    }
  }
  return most + std::log(sum);
}

std::vector<double> uncentred(ScalingForm form, std::vector<double> theta,
                              const ScalingCentre& centre) {
  const double n = centre.log_parameters, d = centre.log_tokens;
  switch (form) {
    case ScalingForm::chinchilla:
      theta[1] += theta[2] * n;
      theta[3] += theta[4] * d;
      break;
    case ScalingForm::moe:
      theta[1] += theta[3] * n;
      theta[2] += theta[4] * n;
      theta[5] += theta[7] * d;
      theta[6] += theta[8] * d;
      break;
    case ScalingForm::granularity:
      theta[1] += theta[4] * n;
      theta[3] += theta[4] * n;
      theta[5] += theta[6] * d;
      break;
  }
  return theta;
}

std::vector<std::vector<double>> start_grid(ScalingForm form, const std::vector<ScalingRun>& runs) {
  double least = runs.front().loss, mean = 0.0;
  for (const ScalingRun& run : runs) {
    least = std::min(least, run.loss);
    mean += run.loss / static_cast<double>(runs.size());
  }
  std::vector<std::vector<double>> starts;
  for (const double share : {0.25, 0.6, 0.9}) {
    for (const double alpha : {0.1, 0.3, 0.6, 1.0}) {
      for (const double beta : {0.1, 0.3, 0.6, 1.0}) {
        const double floor = std::log(share * least);
        const double rest = std::log((mean - share * least) / 2.0);
        switch (form) {
          case ScalingForm::chinchilla:
            starts.push_back({floor, rest, alpha, rest, beta});
            break;
          case ScalingForm::moe:
            for (const double slope : {-0.2, 0.0, 0.2})
              starts.push_back({floor, rest, slope, alpha, 0.0, rest, 0.0, beta, 0.0});
            break;
          case ScalingForm::granularity:
            for (const double gamma : {0.3, 1.0}) {
              const double half = rest - std::log(2.0);
              starts.push_back({floor, half, gamma, half, alpha, rest, beta});
            }
            break;
        }
      }
    }
  }
  return starts;
}

}  // namespace polymoe
