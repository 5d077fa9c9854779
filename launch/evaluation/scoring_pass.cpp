// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/scoring_pass.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <tuple>
#include <utility>
#include <vector>
#include "launch/step/pass_limits.h"

namespace polymoe {
namespace {

class PassCutter {
 public:
  PassCutter(const std::vector<LikelihoodRequest>& requests, const ScoringCut& cut)
      : requests_(requests), cut_(cut) {}

  std::vector<ScoringPass> passes() {
    for (const std::size_t i : ordered()) add(i);
    finish();
    return std::move(passes_);
  }

 private:
  /// What the pass that is being filled holds.
  struct Load {
    std::int64_t tokens = 0, predictions = 0, longest = 0, places = 0, sequences = 0;
  };

  std::span<const std::int32_t> inputs(std::size_t i) const {
    return inputs_of(requests_[i], cut_.context);
  }
  std::int64_t length_of(std::size_t i) const {
    return static_cast<std::int64_t>(inputs(i).size());
  }
  bool before(std::size_t a, std::size_t b) const {
    return std::ranges::lexicographical_compare(inputs(a), inputs(b));
  }

  /// From the longest to the shortest, a group by its longest; within it by their inputs.
  std::vector<std::size_t> ordered() const {
    std::map<std::int64_t, std::int64_t> longest;  // of each group
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      std::int64_t& length = longest[requests_[i].group];
      length = std::max(length, length_of(i));
    }
    std::vector<std::size_t> order(requests_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto key = [&](std::size_t i) {
      const std::int64_t group = requests_[i].group;
      return std::tuple(cut_.equal_lengths ? -length_of(i) : 0, -longest[group], group);
    };
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const auto of_a = key(a), of_b = key(b);
      return of_a != of_b ? of_a < of_b : before(a, b);
    });
    return order;
  }

  void add(std::size_t i) {
    const std::span<const std::int32_t> own = inputs(i);
    const auto size = static_cast<std::int64_t>(own.size());
    const bool first = load_.sequences == 0;
    // At least as much as it shares with all that are there already.
    std::int64_t shared = 0;
    if (!first)
      shared = std::ranges::mismatch(own, inputs(pass_.requests.back())).in1 - own.begin();
    const std::int64_t predicted = std::min(requests_[i].predicted, size);
    const std::int64_t places = cut_.equal_lengths ? size : length_step(size);
    const Load with_it{.tokens = load_.tokens + size - shared,
                       .predictions = load_.predictions + predicted,
                       .longest = std::max(load_.longest, size),
                       .places = load_.places + places,
                       .sequences = load_.sequences + 1};
    const PassLimits& most = cut_.limits;
    const bool fits = with_it.tokens <= most.tokens && with_it.predictions <= most.tokens &&
                      with_it.places <= most.places &&
                      (!cut_.equal_lengths || load_.longest == size);
    if (first || fits) {
      load_ = with_it;
    } else {
      finish();
      load_ = {.tokens = size,
               .predictions = predicted,
               .longest = size,
               .places = places,
               .sequences = 1};
    }
    pass_.requests.push_back(i);
  }

  void finish() {
    if (pass_.requests.empty()) return;
    std::stable_sort(pass_.requests.begin(), pass_.requests.end(),
                     [&](std::size_t a, std::size_t b) { return before(a, b); });
    pass_.length = load_.longest;
    passes_.push_back(std::move(pass_));
    pass_ = {};
    load_ = {};
  }

  const std::vector<LikelihoodRequest>& requests_;
  const ScoringCut& cut_;
  std::vector<ScoringPass> passes_;
  ScoringPass pass_;
  Load load_;
};

}  // namespace

std::span<const std::int32_t> inputs_of(const LikelihoodRequest& request, std::int64_t context) {
  const std::span<const std::int32_t> all(request.tokens.data(), request.tokens.size() - 1);
  return all.last(std::min(all.size(), static_cast<std::size_t>(context)));
}

std::int64_t length_step(std::int64_t length) {
  if (length < 1) return 0;
  const auto below = static_cast<std::uint64_t>(length - 1);
  const int dropped = std::max(static_cast<int>(std::bit_width(below)) - 3, 0);
  return static_cast<std::int64_t>(((below >> dropped) + 1) << dropped);
}

std::vector<ScoringPass> cut_into_passes(const std::vector<LikelihoodRequest>& requests,
                                         const ScoringCut& cut) {
  return PassCutter(requests, cut).passes();
}

}  // namespace polymoe
