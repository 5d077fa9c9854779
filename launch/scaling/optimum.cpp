// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/optimum.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "launch/scaling/fit.h"
#include "launch/scaling/form.h"
#include "launch/scaling/law.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

class Search {
 public:
  Search(const ScalingLaw& law, const ScalingBudget& budget) : law_(law), budget_(budget) {
    constexpr int steps = 16;
    const bool many = law.fit.form == ScalingForm::moe && law.experts.high > 1.01 * law.experts.low;
    for (int i = 0; i <= (many ? steps : 0); ++i)
      experts_.push_back(law.experts.low * std::pow(law.experts.high / law.experts.low,
                                                    many ? static_cast<double>(i) / steps : 1.0));
    std::erase_if(experts_, [&](double experts) { return highest(experts) <= lowest(); });
    if (experts_.empty())
      throw InvalidArgument(
          fmt::format("memory for {:.4g} stored parameters: holds no N above {:.4g}, a thousandth "
                      "of the runs' own",
                      budget.most_stored, std::exp(lowest())));
  }

  ScalingRun best(const std::vector<double>& theta) const {
    ScalingRun best;
    double least = std::numeric_limits<double>::infinity();
    for (const double experts : experts_) {
      const ScalingRun run = best_size(theta, experts);
      const double loss = loss_of(theta, run);
      if (loss < least) {
        least = loss;
        best = run;
      }
    }
    return best;
  }

  bool at_edge(const ScalingRun& run) const {
    constexpr double near = 1e-3;
    const double size = std::log(run.parameters);
    return size < lowest() + near || size > highest(run.experts) - near;
  }

 private:
  double reach() const { return std::log(1000.0); }
  double lowest() const { return law_.fit.centre.log_parameters - reach(); }
  double highest(double experts) const {
    return std::min(law_.fit.centre.log_parameters + reach(),
                    std::log(budget_.most_stored / law_.stored.at(experts)));
  }

  ScalingRun run_of(double log_parameters, double experts) const {
    ScalingRun run;
    run.parameters = std::exp(log_parameters);
    run.experts = experts;
    run.granularity = law_.granularity;
    const double per_flop = law_.tokens_per_flop.at(experts);
    run.tokens = budget_.tokens ? *budget_.tokens : *budget_.flops * per_flop / run.parameters;
    run.flops = run.parameters * run.tokens / per_flop;
    return run;
  }

  double loss_of(const std::vector<double>& theta, const ScalingRun& run) const {
    return log_loss(terms_of(law_.fit.form, run, law_.fit.centre), theta, nullptr);
  }

  /// With the number of experts fixed, every form is a sum of exponentials of ln N, along an
  /// isoflop as well: it is convex and has one minimum.
  ScalingRun best_size(const std::vector<double>& theta, double experts) const {
    constexpr double near = 1e-4;
    double low = lowest(), high = highest(experts);
    while (high - low > near) {
      const double a = low + 0.49 * (high - low), b = high - 0.49 * (high - low);
      if (loss_of(theta, run_of(a, experts)) < loss_of(theta, run_of(b, experts)))
        high = b;
      else
        low = a;
    }
    return run_of((low + high) / 2.0, experts);
  }

  const ScalingLaw& law_;
  const ScalingBudget& budget_;
  std::vector<double> experts_;
};

}  // namespace

Optimum best_for(const ScalingLaw& law, const ScalingBudget& budget) {
  const Search search(law, budget);
  const ScalingRun run = search.best(law.fit.theta);
  Optimum optimum{.run = run, .prediction = predict(law.fit, law.draws, run)};
  optimum.at_edge = search.at_edge(run);
  std::vector<double> parameters, tokens, experts;
  for (const std::vector<double>& draw : law.draws) {
    const ScalingRun drawn = search.best(draw);
    parameters.push_back(drawn.parameters);
    tokens.push_back(drawn.tokens);
    experts.push_back(drawn.experts);
  }
  if (!parameters.empty()) {
    optimum.parameters_80 = middle(parameters, 0.8);
    optimum.tokens_80 = middle(tokens, 0.8);
    optimum.experts_80 = middle(experts, 0.8);
  }
  return optimum;
}

}  // namespace polymoe
