// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

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
  std::int64_t tokens_per_batch = 0;  // of one rank's pass; at least the model's context
};

/// Tokens whose last ones are predicted.
struct LikelihoodRequest {
  std::vector<std::int32_t> tokens;
  std::int64_t predicted = 0;  // the last ones, in [1, tokens.size() - 1]
};

/// log p(predicted tokens | those before them) of each request, in nats, in their order and the
/// same on every rank. Requests longer than the model's context lose their first tokens. Requests
/// of like length share a pass; a pass is the same whatever the number of ranks. `advance` is told
/// of the requests that are done. Collective over the mesh.
std::vector<double> log_likelihoods(const AnsweringModel& answering,
                                    const std::vector<LikelihoodRequest>& requests,
                                    const std::function<void(std::int64_t)>& advance);

}  // namespace polymoe
