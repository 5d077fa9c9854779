// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/random.h"

namespace polymoe {

/// How the next token is drawn from its logits.
struct SamplingOptions {
  double temperature = 1.0;  // logits are divided by it; 0 = always the most probable token
  std::int64_t top_k = 0;    // only the k most probable tokens; 0 = all
  double top_p = 1.0;        // only the fewest tokens that together reach this probability
  std::uint64_t seed = 0;

  /// One line per violated field: its option, value and allowed range. Empty if all is well.
  std::vector<std::string> violations() const;
};

/// Draws tokens: temperature, then top-k, then top-p on what top-k left, then one uniform number.
/// Of equally probable tokens the one with the lower id comes first. The i-th draw is a function of
/// (seed, text, i, logits) alone.
class Sampler {
 public:
  /// Throws InvalidArgument listing the violations of `options`.
  /// `text`: which of the seed's streams of random numbers, one for each text that is continued.
  explicit Sampler(const SamplingOptions& options, std::uint64_t text = 0);

  /// logits [vocab]. Throws Error when one of them is not finite.
  std::int64_t draw(std::span<const float> logits);

 private:
  SamplingOptions options_;
  RandomStream random_;
  std::uint64_t draws_ = 0;
  std::vector<std::int64_t> order_;  // candidates, most probable first
  std::vector<double> weights_;      // of the candidates, not normalised
};

}  // namespace polymoe
