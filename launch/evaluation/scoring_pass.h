// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "launch/step/pass_limits.h"

namespace polymoe {

/// Tokens whose last ones are predicted.
struct LikelihoodRequest {
  std::vector<std::int32_t> tokens;
  std::int64_t predicted = 0;  // the last ones, in [1, tokens.size() - 1]
  std::int64_t group = 0;      // requests of one group have the same beginning
};

/// What a request gives to a model: all tokens but the last, as far as the context reaches back.
std::span<const std::int32_t> inputs_of(const LikelihoodRequest& request, std::int64_t context);

/// Requests that one rank answers in one pass of the model.
struct ScoringPass {
  std::vector<std::size_t> requests;  // in the order of their inputs: what begins alike is together
  std::int64_t length = 0;            // of the inputs of the longest

  std::int64_t sequences() const { return static_cast<std::int64_t>(requests.size()); }
};

/// How requests are put together.
struct ScoringCut {
  std::int64_t context = 0;    // of the model
  PassLimits limits;           // at least one request is in a pass
  bool equal_lengths = false;  // all requests of a pass, which is filled by them then
};

/// The least that is not below `length` of four lengths to a power of two: what a sequence counts
/// as in a pass, whose attention may take it among some that are so long.
std::int64_t length_step(std::int64_t length);

/// Passes over all requests, those of like length together and groups as far as they fit.
std::vector<ScoringPass> cut_into_passes(const std::vector<LikelihoodRequest>& requests,
                                         const ScoringCut& cut);

}  // namespace polymoe
