// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/scoring_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace polymoe {
namespace {

/// Items of several choices behind a beginning that all of them have.
std::vector<LikelihoodRequest> few_shot_requests(std::int64_t items) {
  std::mt19937 random(1);
  const auto between = [&](int least, int most) {
    return std::uniform_int_distribution(least, most)(random);
  };
  std::vector<LikelihoodRequest> requests;
  for (std::int64_t item = 0; item < items; ++item) {
    std::vector<std::int32_t> question(300, 7);
    for (int i = between(1, 200); i > 0; --i) question.push_back(between(0, 99));
    for (int choice = 0; choice < 4; ++choice) {
      const int size = between(1, 40);
      LikelihoodRequest request{.tokens = question, .predicted = size, .group = item};
      for (int i = 0; i < size; ++i) request.tokens.push_back(between(0, 99));
      requests.push_back(std::move(request));
    }
  }
  return requests;
}

/// Distinct beginnings of the inputs of a pass.
std::int64_t distinct_rows(const std::vector<LikelihoodRequest>& requests, const ScoringPass& pass,
                           std::int64_t context) {
  std::set<std::vector<std::int32_t>> rows;
  for (const std::size_t i : pass.requests) {
    const auto inputs = inputs_of(requests[i], context);
    for (std::size_t end = 1; end <= inputs.size(); ++end)
      rows.emplace(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return static_cast<std::int64_t>(rows.size());
}

TEST(ScoringPass, KeepsToItsLimitsAndHasEveryRequestOnce) {
  const std::vector<LikelihoodRequest> requests = few_shot_requests(60);
  const ScoringCut cut{.context = 512, .limits = {.tokens = 2048, .places = 8192}};
  const std::vector<ScoringPass> passes = cut_into_passes(requests, cut);
  std::multiset<std::size_t> seen;
  for (const ScoringPass& pass : passes) {
    seen.insert(pass.requests.begin(), pass.requests.end());
    std::int64_t places = 0;
    for (const std::size_t i : pass.requests)
      places += length_step(std::ssize(inputs_of(requests[i], cut.context)));
    EXPECT_LE(places, cut.limits.places);
    EXPECT_LE(pass.length, cut.context);
    EXPECT_LE(distinct_rows(requests, pass, cut.context), cut.limits.tokens);
    for (std::size_t i = 0; i < pass.requests.size(); ++i) {
      const auto inputs = inputs_of(requests[pass.requests[i]], cut.context);
      EXPECT_LE(static_cast<std::int64_t>(inputs.size()), pass.length);
      if (i == 0) continue;
      EXPECT_FALSE(std::ranges::lexicographical_compare(
          inputs, inputs_of(requests[pass.requests[i - 1]], cut.context)));
    }
  }
  EXPECT_EQ(seen.size(), requests.size());
  EXPECT_EQ(std::set<std::size_t>(seen.begin(), seen.end()).size(), requests.size());
  // What all begin with is there once a pass: they hold far more than their tokens.
  EXPECT_LT(passes.size(), 25U);  // 50 without
}

TEST(ScoringPass, CountsLengthsInFourStepsOfAPowerOfTwo) {
  for (const auto& [length, step] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 0}, {1, 1}, {7, 7}, {8, 8}, {9, 10}, {17, 20}, {64, 64}, {65, 80}, {4096, 4096}})
    EXPECT_EQ(length_step(length), step) << length;
}

/// Short sequences do not count as the longest.
TEST(ScoringPass, HoldsAsManyPlacesAsItsSequencesHave) {
  std::vector<LikelihoodRequest> requests;
  for (std::int32_t i = 0; i < 100; ++i)
    requests.push_back(
        {.tokens = std::vector<std::int32_t>(i == 0 ? 401 : 11, i), .predicted = 1, .group = i});
  EXPECT_EQ(cut_into_passes(requests, {.context = 512, .limits = {.tokens = 2048, .places = 2048}})
                .size(),
            1U);
}

TEST(ScoringPass, OfEqualLengthsIsFilledByThem) {
  const std::vector<LikelihoodRequest> requests = few_shot_requests(20);
  for (const ScoringPass& pass : cut_into_passes(
           requests,
           {.context = 512, .limits = {.tokens = 2048, .places = 2048}, .equal_lengths = true})) {
    for (const std::size_t i : pass.requests)
      EXPECT_EQ(static_cast<std::int64_t>(inputs_of(requests[i], 512).size()), pass.length);
  }
}

TEST(ScoringPass, ARequestOfTheWholeWindowHasAPassWhateverTheLimits) {
  std::vector<LikelihoodRequest> requests(2);
  for (LikelihoodRequest& request : requests) {
    request.tokens.assign(1000, 3);
    request.predicted = 2;
  }
  requests[1].tokens[999] = 4;
  const auto passes =
      cut_into_passes(requests, {.context = 100, .limits = {.tokens = 10, .places = 10}});
  ASSERT_EQ(passes.size(), 2U);
  for (const ScoringPass& pass : passes) {
    EXPECT_EQ(pass.length, 100);
    EXPECT_EQ(pass.sequences(), 1);
  }
}

}  // namespace
}  // namespace polymoe
