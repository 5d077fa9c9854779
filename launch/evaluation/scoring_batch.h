// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "launch/evaluation/scoring_pass.h"
#include "layers/shared_rows.h"

namespace polymoe {

/// The sequences of a pass for whose attention there is one call, by their numbers.
struct SequenceGroup {
  std::vector<std::size_t> sequences;
  std::int64_t length = 0;  // of the longest
  std::int64_t known = 0;   // first places, which all of them share with sequences before them

  std::int64_t places() const { return static_cast<std::int64_t>(sequences.size()) * length; }
};

/// What a sequence is to attention: its places, of which the first `shared` have rows of sequences
/// before it.
struct SharingSequence {
  std::int64_t length = 0, shared = 0;
};

/// Sequences of like length and sharing together, so that few places are padding and few queries
/// are computed again, in so few groups that their calls do not cost more. Those that have nothing
/// of their own are left out. The order within a group is that of their numbers. Groups have at
/// most `most_places`, or as many as the sequences' length_step() make.
std::vector<SequenceGroup> groups_of(std::span<const SharingSequence> sequences,
                                     std::int64_t most_places);

/// A pass on the host, see SharedTokenBatch. What requests have in common at their beginnings is
/// there once. `cut` is what the pass was cut by.
struct ScoringBatch {
  ScoringBatch(const std::vector<LikelihoodRequest>& requests, const ScoringPass& pass,
               const ScoringCut& cut);

  std::vector<SharedRows::Group> groups;
  std::vector<std::int32_t> tokens, row_of, query_of, place_of, starts, predicting, targets;
  std::vector<std::int64_t> predictions;  // of each request
};

}  // namespace polymoe
