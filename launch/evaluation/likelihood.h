// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "launch/config/config.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// A model that answers questions, on every rank of a mesh.
struct AnsweringModel {
  LanguageModel& model;
  const ProcessMesh& mesh;
  ExecutionContext& context;
  DType dtype;                        // of its values
  std::int64_t tokens_per_batch = 0;  // of one rank's pass, see scoring_tokens
  /// Asked before each pass, on every rank with the same answer: leave the rest? Empty = never.
  std::function<bool()> leave = {};
};

/// Tokens whose last ones are predicted.
struct LikelihoodRequest {
  std::vector<std::int32_t> tokens;
  std::int64_t predicted = 0;  // the last ones, in [1, tokens.size() - 1]
  std::int64_t group = 0;      // requests of one group have the same beginning
};

/// Tokens of a rank's pass, padding included: on a CPU whatever the number of ranks, so that they
/// give the same bits; on a GPU as many as memory was planned for.
std::int64_t scoring_tokens(const Config& config, int ranks, Device device);

/// log p(predicted tokens | those before them) of each request, in nats, in their order and the
/// same on every rank. Requests longer than the model's context lose their first tokens. Requests
/// of like length share a pass, and what they have in common at their beginnings is computed once a
/// pass. A pass is the same whatever the number of ranks. `advance` is told
/// of the requests that are done. Nothing where it was left. Collective over the mesh.
std::optional<std::vector<double>> log_likelihoods(
    const AnsweringModel& answering, const std::vector<LikelihoodRequest>& requests,
    const std::function<void(std::int64_t)>& advance);

}  // namespace polymoe
