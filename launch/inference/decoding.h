// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "launch/inference/answering_model.h"
#include "launch/inference/sampler.h"

namespace polymoe {

/// Tokens to be continued by others.
struct DecodingRequest {
  std::vector<std::int32_t> prompt = {};  // at least one
  /// At most that many new ones, at least one. The context holds the prompt and all but the last.
  std::int64_t tokens = 0;
  SamplingOptions sampling = {};
  std::uint64_t text = 0;       // see Sampler
  bool beyond_context = false;  // go on from the last half of a full context
};

/// What requests took together, on all ranks.
struct DecodingWork {
  std::int64_t tokens = 0;        // that the model was given
  std::int64_t first_tokens = 0;  // of them: in the first pass
  double first_seconds = 0.0;     // of that pass
};

/// How many sequences of up to `capacity` tokens a rank continues together: answering.batch, or
/// else usual_batch, or fewer where their keys and values would take more than a quarter of what a
/// GPU has free, or of a rank's share of the host's memory. The same on every rank. Collective over
/// the mesh. Throws InvalidArgument where the keys and values of answering.batch sequences do not
/// fit.
std::int64_t sequences_at_once(const AnsweringModel& answering, std::int64_t capacity);

/// Draws tokens for all requests, many at a time: the ranks share out the requests, and a pass of
/// the model takes the next token of every sequence of a rank, and the prompts of those that begin.
/// One that ends leaves its keys' and values' memory to the next. `take` is told each token on
/// every rank alike, in an order that depends on the requests, the batch and the number of ranks
/// alone; it says whether the request goes on. Only ids below `vocab` are drawn.
///
/// What is drawn for a request depends on it alone, and on others to the rounding of sums: see
/// LanguageModel::next_token_logits. Nothing where it was left. Collective over the mesh.
/// Throws InvalidArgument that names a request without tokens, or with more than the context, and
/// Error on every rank where the model's parameters are not finite.
std::optional<DecodingWork> continue_all(
    const AnsweringModel& answering, const std::vector<DecodingRequest>& requests,
    std::int64_t vocab, const std::function<bool(std::size_t request, std::int32_t id)>& take);

}  // namespace polymoe
