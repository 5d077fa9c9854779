// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "launch/config/config.h"

namespace polymoe {

/// Sequences [first, first + count) of a step's global batch.
struct SequenceRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// How a step's sequences are shared out: every rank makes as many passes, and what all ranks work
/// on at the same time follows one another. Shares differ by at most one sequence.
struct StepShares {
  std::int64_t global_batch = 0;
  std::int64_t ranks = 1;
  std::int64_t passes = 1;  // of a rank

  SequenceRange of(std::int64_t pass, std::int64_t rank) const;
  /// Sequences of the largest share, which is rank 0's first.
  std::int64_t largest() const;
  /// Whether all shares are as large.
  bool even() const { return global_batch % (ranks * passes) == 0; }
};

/// The shares of a layout without violations. With train.micro_batch = 0, the fewest passes whose
/// shares have at most train.micro_batch_limit sequences, or twice as many where only those are all
/// as large; the limit is 4096 tokens' worth where none was found (see choose_micro_batch).
StepShares shares_of(const Config& config, int ranks);

/// As many sequences as make up `tokens`, at least one.
std::int64_t sequences_of(std::int64_t tokens, const Config& config);

}  // namespace polymoe
