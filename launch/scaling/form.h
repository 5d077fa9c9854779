// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace polymoe {

/// What a scaling law may depend on, of one finished run.
struct ScalingRun {
  std::string name;
  std::string trunk;         // runs of one trunk share its noise; a run of its own otherwise
  std::string label;         // its activation
  double parameters = 0.0;   // N, by the choice that was made
  double tokens = 0.0;       // D
  double experts = 1.0;      // E: experts of a layer over those a token takes; 1 = dense
  double granularity = 1.0;  // G: a dense width over an expert's
  double flops = 0.0;
  double memory_parameters = 0.0;  // all that must be stored
  double loss = 0.0;
};

/// Scaling laws. Each is a sum of powers, so that its logarithm is a log-sum-exp of terms that are
/// linear in the parameters theta; exponents are positive where more is better.
///
/// chinchilla   L = E + A N^-alpha + B D^-beta
///              Hoffmann et al. 2022, arXiv:2203.15556, approach 3
/// moe          L = E + A X^delta N^-(alpha + gamma ln X) + B X^omega D^-(beta + zeta ln X), with X
///              the number of experts per one that a token takes (not saturating, unlike the source)
///              Ludziejewski et al. 2025, arXiv:2502.05172
/// granularity  L = E + (g G^-gamma + A) N^-alpha + B D^-beta
///              Krajewski et al. 2024, arXiv:2402.07871
enum class ScalingForm : std::uint8_t { chinchilla, moe, granularity };

const char* name_of(ScalingForm form);
/// "L = ..."
const char* formula_of(ScalingForm form);
/// In the order of theta; of `log A`, ln A is the parameter.
const std::vector<std::string>& parameter_names(ScalingForm form);

/// ln N and ln D are measured from here, so that factors and exponents do not compensate.
struct ScalingCentre {
  double log_parameters = 0.0;
  double log_tokens = 0.0;
};
ScalingCentre centre_of(const std::vector<ScalingRun>& runs);

/// Rows of one run: term k is exp(sum_p rows[k][p] theta[p]).
std::vector<std::vector<double>> terms_of(ScalingForm form, const ScalingRun& run,
                                          const ScalingCentre& centre);

/// The logarithm of the loss. `gradient` may be null; else it gets d(ln L) / d(theta).
double log_loss(const std::vector<std::vector<double>>& terms, const std::vector<double>& theta,
                double* gradient);

/// theta without its centre: what the formula means.
std::vector<double> uncentred(ScalingForm form, std::vector<double> theta,
                              const ScalingCentre& centre);

/// Places to start a fit from: a full grid over exponents and the share of the loss that is
/// irreducible, the rest shared out among the other terms.
std::vector<std::vector<double>> start_grid(ScalingForm form, const std::vector<ScalingRun>& runs);

}  // namespace polymoe
