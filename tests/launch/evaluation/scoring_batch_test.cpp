// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/scoring_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "launch/evaluation/scoring_pass.h"

namespace polymoe {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int64_t many = 1 << 20;
constexpr ScoringCut cut{.context = 512, .limits = {.tokens = many, .places = many}};

/// Items of four choices behind examples that all have in common, contexts of many lengths, one
/// request twice and one that another goes on from.
std::vector<LikelihoodRequest> requests() {
  std::vector<LikelihoodRequest> all;
  const auto add = [&](Ids tokens, std::int64_t predicted) {
    all.push_back({.tokens = std::move(tokens), .predicted = predicted, .group = 0});
  };
  for (std::int32_t item = 0; item < 60; ++item) {
    Ids front(200, 7);
    for (std::int32_t i = 0; i < 10 + 3 * item; ++i) front.push_back(100 + item + i % 5);
    for (std::int32_t choice = 0; choice < 4; ++choice) {
      Ids tokens = front;
      for (std::int32_t i = 0; i < 4 + choice; ++i) tokens.push_back(500 + choice);
      add(std::move(tokens), 4 + choice);
    }
  }
  add({1, 2, 3, 4, 5, 6}, 2);
  add({1, 2, 3, 4, 5, 6}, 2);
  add({1, 2, 3, 4, 9}, 1);
  add({1, 2, 3, 4}, 1);
  return all;
}

ScoringPass pass_of(const std::vector<LikelihoodRequest>& all) {
  const auto passes = cut_into_passes(all, cut);
  EXPECT_EQ(passes.size(), 1U);
  return passes.at(0);
}

TEST(ScoringBatch, EveryRowHasAQueryBehindTheKeysOfItsSequence) {
  const std::vector<LikelihoodRequest> all = requests();
  const ScoringBatch batch(all, pass_of(all), cut);
  EXPECT_GT(batch.groups.size(), 1U);
  // The tokens up to each row, by the keys that its query sees.
  std::vector<Ids> seen(batch.tokens.size());
  std::size_t first_key = 0, query = 0;
  for (const SharedRows::Group& group : batch.groups) {
    ASSERT_GE(group.known, 0);
    ASSERT_LT(group.known, group.length);
    for (std::int64_t s = 0; s < group.sequences; ++s) {
      const auto keys =
          std::span(batch.row_of).subspan(first_key, static_cast<std::size_t>(group.length));
      for (std::int64_t j = group.known; j < group.length; ++j, ++query) {
        const auto row = static_cast<std::size_t>(keys[static_cast<std::size_t>(j)]);
        ASSERT_EQ(batch.query_of[query], static_cast<std::int32_t>(row));
        if (batch.place_of[row] != static_cast<std::int32_t>(query)) continue;
        EXPECT_EQ(batch.starts[row], static_cast<std::int32_t>(row) - j);
        for (const std::int32_t key : keys.first(static_cast<std::size_t>(j) + 1))
          seen[row].push_back(batch.tokens[static_cast<std::size_t>(key)]);
      }
      first_key += keys.size();
    }
  }
  EXPECT_EQ(first_key, batch.row_of.size());
  EXPECT_EQ(query, batch.query_of.size());
  // Of each request the rows that predict have seen its tokens.
  const ScoringPass pass = pass_of(all);
  std::size_t next = 0;
  for (std::size_t s = 0; s < pass.requests.size(); ++s) {
    const LikelihoodRequest& request = all[pass.requests[s]];
    ASSERT_EQ(batch.predictions[s], request.predicted);
    for (std::int64_t i = request.predicted; i > 0; --i, ++next) {
      const auto end = request.tokens.end() - i;
      EXPECT_EQ(seen[static_cast<std::size_t>(batch.predicting[next])],
                Ids(request.tokens.begin(), end));
      EXPECT_EQ(batch.targets[next], *end);
    }
  }
  EXPECT_EQ(next, batch.targets.size());
  EXPECT_EQ(next, batch.predicting.size());
}

TEST(ScoringBatch, KeepsToThePlacesOfItsPass) {
  const std::vector<LikelihoodRequest> all = requests();
  const ScoringCut small{.context = 512, .limits = {.tokens = 4096, .places = 4096}};
  for (const ScoringPass& pass : cut_into_passes(all, small)) {
    const ScoringBatch batch(all, pass, small);
    EXPECT_LE(std::ssize(batch.row_of), small.limits.places);
    EXPECT_LE(std::ssize(batch.tokens), small.limits.tokens);
  }
}

TEST(ScoringBatch, NoRequestsAreNoGroups) {
  const ScoringBatch batch({}, {.requests = {}, .length = 5}, cut);
  EXPECT_TRUE(batch.groups.empty());
  EXPECT_TRUE(batch.tokens.empty());
  EXPECT_TRUE(batch.row_of.empty());
}

/// How many places and queries there are.
struct Size {
  std::int64_t places = 0, queries = 0;
};
Size size_of(const std::vector<SequenceGroup>& groups) {
  Size size;
  for (const SequenceGroup& one : groups) {
    size.places += std::ssize(one.sequences) * one.length;
    size.queries += std::ssize(one.sequences) * (one.length - one.known);
  }
  return size;
}

TEST(SequenceGroups, HoldEverySequenceThatHasItsOwnOnceAndItsPlaces) {
  std::vector<SharingSequence> sequences;
  for (std::int64_t i = 0; i < 3000; ++i)
    sequences.push_back({.length = 1 + i % 700, .shared = i % 11 == 0 ? 1 + i % 700 : i % 300});
  std::vector<bool> there(sequences.size(), false);
  for (const SequenceGroup& one : groups_of(sequences, many)) {
    EXPECT_TRUE(std::ranges::is_sorted(one.sequences));
    for (const std::size_t s : one.sequences) {
      EXPECT_FALSE(there[s]);
      there[s] = true;
      EXPECT_LE(sequences[s].length, one.length);
      EXPECT_GE(sequences[s].shared, one.known);
    }
  }
  for (std::size_t s = 0; s < sequences.size(); ++s)
    EXPECT_EQ(there[s], sequences[s].shared < sequences[s].length) << s;
}

TEST(SequenceGroups, AreOneWhereACallCostsMoreThanPadding) {
  const std::vector<SharingSequence> few = {
      {.length = 60, .shared = 0}, {.length = 40, .shared = 16}, {.length = 9, .shared = 8}};
  EXPECT_EQ(groups_of(few, many).size(), 1U);
  EXPECT_EQ(groups_of(few, many)[0].length, 60);
  EXPECT_EQ(groups_of(few, many)[0].known, 0);
  EXPECT_TRUE(groups_of({}, many).empty());
}

/// As of few-shot prompts: one sequence has the examples, every fourth its question, the others
/// their choice.
TEST(SequenceGroups, ComputeFewQueriesAgain) {
  std::vector<SharingSequence> sequences;
  std::int64_t needed = 0;
  for (std::int64_t i = 0; i < 400; ++i) {
    sequences.push_back({.length = 480, .shared = i == 0 ? 0 : i % 4 == 0 ? 368 : 456});
    needed += 480 - sequences.back().shared;
  }
  const std::vector<SequenceGroup> groups = groups_of(sequences, many);
  EXPECT_LE(groups.size(), 3U);
  EXPECT_EQ(size_of(groups).places, 400 * 480);
  EXPECT_LE(size_of(groups).queries, needed * 11 / 10);
}

/// As of questions without examples, whose lengths are anything.
TEST(SequenceGroups, HaveFewPlacesThatArePadding) {
  std::vector<SharingSequence> sequences;
  std::int64_t needed = 0;
  for (std::int64_t i = 0; i < 2400; ++i) {
    sequences.push_back({.length = 12 + i * i / 60000, .shared = 0});
    needed += sequences.back().length;
  }
  const std::vector<SequenceGroup> groups = groups_of(sequences, many);
  EXPECT_LE(groups.size(), 12U);
  EXPECT_LE(size_of(groups).places, needed * 5 / 4);
}

TEST(SequenceGroups, AreNotPaddedBeyondTheirPlaces) {
  const std::vector<SharingSequence> few = {
      {.length = 60, .shared = 0}, {.length = 40, .shared = 16}, {.length = 8, .shared = 0}};
  EXPECT_EQ(size_of(groups_of(few, 180)).places, 180);
  EXPECT_EQ(size_of(groups_of(few, 179)).places, 128);
  EXPECT_EQ(groups_of(few, 0).size(), 3U);
}

}  // namespace
}  // namespace polymoe
