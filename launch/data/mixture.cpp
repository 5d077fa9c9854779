// SPDX-License-Identifier: Apache-2.0
#include "launch/data/mixture.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/sample_order.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::int64_t linear_pieces = 64;  // of constant shares, between two stages

std::vector<double> between(const std::vector<double>& a, const std::vector<double>& b, double t) {
  std::vector<double> shares(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) shares[i] = (1.0 - t) * a[i] + t * b[i];
  return shares;
}

}  // namespace

WeightKind resolved_weights(const std::vector<WeightedFile>& files, WeightKind kind) {
  if (kind != WeightKind::automatic) return kind;
  const bool given =
      std::any_of(files.begin(), files.end(), [](const auto& file) { return file.weight; });
  return given ? WeightKind::share : WeightKind::size;
}

std::vector<double> shares_of(const std::vector<WeightedFile>& files,
                              const std::vector<std::int64_t>& windows, WeightKind kind) {
  const bool by_size = resolved_weights(files, kind) == WeightKind::size;
  std::vector<double> shares;
  for (std::size_t i = 0; i < files.size(); ++i)
    shares.push_back(files[i].weight.value_or(1.0) *
                     (by_size ? static_cast<double>(windows[i]) : 1.0));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

Mixture::Mixture(Settings settings) : settings_(std::move(settings)) {
  const std::vector<Stage>& stages = settings_.stages;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const bool ends = i + 1 == stages.size();
    const std::int64_t begin =
        i == 0 ? settings_.first : std::max(stages[i].first, settings_.first);
    const std::int64_t end = ends ? std::max(settings_.last, begin + 1) : stages[i + 1].first;
    if (end <= begin) continue;
    if (!settings_.linear || ends) {
      add(begin, end, stages[i].shares);
      continue;
    }
    // The pieces are the same wherever the mixture begins.
    const std::int64_t from = stages[i].first, length = end - from;
    const std::int64_t pieces = std::min(linear_pieces, length);
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      const std::int64_t a = std::max(begin, from + length * piece / pieces);
      const std::int64_t b = from + length * (piece + 1) / pieces;
      const double middle = (static_cast<double>(piece) + 0.5) / static_cast<double>(pieces);
      if (a < b) add(a, b, between(stages[i].shares, stages[i + 1].shares, middle));
    }
  }
}

/// One segment, or several where files reach their caps.
void Mixture::add(std::int64_t first, std::int64_t last, const std::vector<double>& shares) {
  const std::vector<File>& files = settings_.files;
  while (first < last) {
    const std::vector<std::int64_t> before = drawn(first);
    std::vector<std::size_t> active;
    std::vector<double> weights;
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (shares[i] <= 0.0 || (files[i].most > 0 && before[i] >= files[i].most)) continue;
      active.push_back(i);
      weights.push_back(shares[i]);
    }
    if (active.empty())
      throw InvalidArgument(
          "data.max_epochs: every file of the mixture has reached its cap at "
          "sample " +
          std::to_string(first) + " of " + std::to_string(settings_.last) +
          "; raise them, add data or lower train.steps");
    Interleaving interleaving(weights, settings_.seed, segments_.size());
    const auto exceeds = [&](std::int64_t numbers) {
      const std::vector<std::int64_t> counts = interleaving.counts(numbers);
      for (std::size_t i = 0; i < active.size(); ++i) {
        const File& file = files[active[i]];
        if (file.most > 0 && before[active[i]] + counts[i] > file.most) return true;
      }
      return false;
    };
    std::int64_t fits = 0, beyond = last - first;
    if (!exceeds(beyond)) {
      fits = beyond;
    } else {
      while (beyond - fits > 1) {
        const std::int64_t middle = fits + (beyond - fits) / 2;
        (exceeds(middle) ? beyond : fits) = middle;
      }
    }
    segments_.push_back({first, std::move(active), before, std::move(interleaving)});
    first += fits;  // at least one: no active file is full
  }
}

const Mixture::Segment& Mixture::segment_of(std::int64_t sample) const {
  auto next =
      std::upper_bound(segments_.begin(), segments_.end(), sample,
                       [](std::int64_t value, const Segment& s) { return value < s.first; });
  return *std::prev(next);
}

Interleaving::Choice Mixture::operator()(std::int64_t sample) const {
  const Segment& segment = segment_of(sample);
  const auto [source, ordinal] = segment.interleaving(sample - segment.first);
  const std::size_t file = segment.active[source];
  return {file, segment.drawn[file] + ordinal};
}

std::vector<std::int64_t> Mixture::drawn(std::int64_t sample) const {
  if (segments_.empty()) {
    std::vector<std::int64_t> starts;
    for (const File& file : settings_.files) starts.push_back(file.start);
    return starts;
  }
  const Segment& segment = segment_of(sample);
  std::vector<std::int64_t> all = segment.drawn;
  const std::vector<std::int64_t> counts = segment.interleaving.counts(sample - segment.first);
  for (std::size_t i = 0; i < counts.size(); ++i) all[segment.active[i]] += counts[i];
  return all;
}

}  // namespace polymoe
