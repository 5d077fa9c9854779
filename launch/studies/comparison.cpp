// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/comparison.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/studies/cell_result.h"
#include "launch/studies/statistics.h"
#include "launch/studies/study.h"
#include "moe/model_size.h"

namespace polymoe {
namespace {

bool counts(const CellResult& result) {
  return result.state.kind == CellState::Kind::finished && !result.diverged && result.train_loss;
}

double flops_of(const Cell& cell) {
  return training_flops_per_token(cell.config.model) * static_cast<double>(cell.tokens());
}

/// Means over the curves of a group, as far as all go.
Curve mean_curve(const std::vector<CellResult>& results, const SeedGroup& group) {
  Curve mean;
  for (const std::size_t index : group.results) {
    const Curve& curve = results[index].curve;
    const std::vector<double> loss = smoothed(curve.loss);
    if (mean.loss.empty()) {
      mean = {.tokens = curve.tokens, .loss = std::vector<double>(loss.size(), 0.0)};
    } else if (loss.size() < mean.loss.size()) {
      mean.loss.resize(loss.size());
      mean.tokens.resize(loss.size());
    }
    for (std::size_t i = 0; i < mean.loss.size(); ++i)
      mean.loss[i] += loss[i] / static_cast<double>(group.results.size());
  }
  return mean;
}

/// The share of a curve that lies before it reaches `loss`.
std::optional<double> share_until(const Curve& curve, double loss) {
  for (std::size_t i = 0; i < curve.loss.size(); ++i)
    if (curve.loss[i] <= loss) return curve.tokens[i] / curve.tokens.back();
  return std::nullopt;
}

std::optional<double> multiplier_by_curve(const std::vector<CellResult>& results,
                                          const SeedGroup& group, const SeedGroup& baseline) {
  const Curve own = mean_curve(results, group), other = mean_curve(results, baseline);
  if (own.loss.empty() || other.loss.empty()) return std::nullopt;
  const double costs = baseline.flops / group.flops;
  if (own.loss.back() <= other.loss.back()) {
    const auto share = share_until(own, other.loss.back());
    return share ? std::optional(costs / *share) : std::nullopt;
  }
  const auto share = share_until(other, own.loss.back());
  return share ? std::optional(costs * *share) : std::nullopt;
}

/// The compute at which a line through (log compute, log loss) of neighbouring levels has the loss.
std::optional<double> compute_for(const std::vector<std::pair<double, double>>& levels,
                                  double loss) {
  for (std::size_t i = 1; i < levels.size(); ++i) {
    const auto& [c0, l0] = levels[i - 1];
    const auto& [c1, l1] = levels[i];
    if (!(l0 >= loss && loss >= l1) || l0 == l1) continue;
    const double t = std::log(l0 / loss) / std::log(l0 / l1);
    return std::exp(std::log(c0) + t * (std::log(c1) - std::log(c0)));
  }
  return std::nullopt;
}

class Comparer {
 public:
  Comparer(const Study& study, const std::vector<CellResult>& results)
      : study_(study), results_(results) {}

  Comparison compare() {
    bool any = false, all = true;
    for (const CellResult& result : results_) {
      if (study_.cells[result.cell].kind == CellKind::trunk || !counts(result)) continue;
      any = true;
      all = all && result.valid_loss.has_value();
    }
    comparison_.by_validation = any && all;
    make_groups();
    if (study_.baseline) make_differences();
    return std::move(comparison_);
  }

 private:
  using Key = std::pair<std::vector<std::size_t>, std::int64_t>;

  void make_groups() {
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const Cell& cell = study_.cells[results_[i].cell];
      if (cell.kind == CellKind::trunk) continue;
      const auto [place, is_new] =
          places_.emplace(Key{cell.values, cell.tokens()}, comparison_.groups.size());
      if (is_new) {
        comparison_.groups.push_back({.values = cell.values,
                                      .tokens = cell.tokens(),
                                      .flops = flops_of(cell),
                                      .results = {},
                                      .expected = 0,
                                      .loss = {}});
      }
      SeedGroup& group = comparison_.groups[place->second];
      ++group.expected;
      if (counts(results_[i])) group.results.push_back(i);
    }
    for (SeedGroup& group : comparison_.groups) {
      std::vector<double> losses;
      for (const std::size_t i : group.results)
        losses.push_back(judged_loss(results_[i], comparison_.by_validation));
      group.loss = estimate(losses);
    }
  }

  std::size_t baseline_value() const {
    const auto& values = study_.axes[study_.compared_axis].values;
    const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) {
      return value.label == *study_.baseline;
    });
    return static_cast<std::size_t>(found - values.begin());
  }

  /// Compute and loss of cells of these values, which differ in their tokens alone: ascending,
  /// without those that are no better than a cheaper one. Other sizes are other curves: between
  /// them compute buys less or more than between lengths.
  std::vector<std::pair<double, double>> levels_of(const std::vector<std::size_t>& values) const {
    std::vector<std::pair<double, double>> all, best;
    for (const SeedGroup& group : comparison_.groups)
      if (group.values == values && group.loss.count > 0)
        all.emplace_back(group.flops, group.loss.mean);
    std::sort(all.begin(), all.end());
    for (const auto& level : all)
      if (best.empty() || level.second < best.back().second) best.push_back(level);
    return best;
  }

  void make_differences() {
    for (std::size_t g = 0; g < comparison_.groups.size(); ++g) {
      const SeedGroup& group = comparison_.groups[g];
      std::vector<std::size_t> values = group.values;
      if (values[study_.compared_axis] == baseline_value()) continue;
      values[study_.compared_axis] = baseline_value();
      // Cells of a group and its baseline have the same tokens unless their axis changes that.
      const auto found = places_.find(Key{values, group.tokens});
      if (found == places_.end()) continue;
      PairedDifference difference{.group = g,
                                  .baseline = found->second,
                                  .difference = {},
                                  .multiplier = {},
                                  .by_curve = false};
      const SeedGroup& baseline = comparison_.groups[found->second];
      std::vector<double> pairs;
      for (const std::size_t i : group.results)
        for (const std::size_t j : baseline.results)
          if (seed(i) == seed(j))
            pairs.push_back(judged_loss(results_[i], comparison_.by_validation) -
                            judged_loss(results_[j], comparison_.by_validation));
      difference.difference = estimate(pairs);
      if (const auto compute = compute_for(levels_of(values), group.loss.mean)) {
        difference.multiplier = *compute / group.flops;
      } else {
        difference.multiplier = multiplier_by_curve(results_, group, baseline);
        difference.by_curve = true;
      }
      comparison_.differences.push_back(difference);
    }
  }

  std::uint64_t seed(std::size_t result) const { return study_.cells[results_[result].cell].seed; }

  const Study& study_;
  const std::vector<CellResult>& results_;
  std::map<Key, std::size_t> places_;
  Comparison comparison_;
};

}  // namespace

double judged_loss(const CellResult& result, bool by_validation) {
  return by_validation ? *result.valid_loss : *result.train_loss;
}

Comparison compare(const Study& study, const std::vector<CellResult>& results) {
  return Comparer(study, results).compare();
}

std::string name_of(const Study& study, const SeedGroup& group) {
  std::string name;
  for (std::size_t a = 0; a < group.values.size(); ++a)
    name += (a == 0 ? "" : ", ") + study.axes[a].values[group.values[a]].label;
  return name + (name.empty() ? "" : ", ") + with_separators(group.tokens) + " tokens";
}

}  // namespace polymoe
