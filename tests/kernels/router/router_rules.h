// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "kernels/router/router.h"

namespace polymoe::test {

struct NamedRule {
  std::string name;
  RouterRule rule;
};

/// The rules that every test of the router's formulas walks: each option at another value than its
/// default, with either score.
inline const std::vector<NamedRule> router_rules = {
    {"softmax", {.scores = RouterScores::softmax}},
    {"softmax_normalized", {.scores = RouterScores::softmax, .normalize = true}},
    {"sigmoid", {.scores = RouterScores::sigmoid}},
    {"sigmoid_normalized", {.scores = RouterScores::sigmoid, .normalize = true}},
};

/// What the rule makes of the scores of a token's chosen experts, by its formula.
inline std::vector<double> expected_weights(const RouterRule& rule,
                                            const std::vector<double>& chosen) {
  const double sum = std::accumulate(chosen.begin(), chosen.end(), 0.0);
  std::vector<double> weights;
  for (const double score : chosen) weights.push_back(rule.normalize ? score / sum : score);
  return weights;
}

}  // namespace polymoe::test
