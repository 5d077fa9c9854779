// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "launch/evaluation/scoring_pass.h"
#include "launch/inference/answering_model.h"

namespace polymoe {

struct Likelihoods {
  std::vector<double> values;
  std::int64_t computed_tokens = 0;    // by all ranks: what requests of a pass share counts once
  std::int64_t first_pass_tokens = 0;  // of them: in the first pass of each rank
  double first_pass_seconds = 0.0;     // until that was done
};

/// log p(predicted tokens | those before them) of each request, in nats, in their order and the
/// same on every rank. Requests longer than the model's context lose their first tokens. Requests
/// of like length share a pass, and what they have in common at their beginnings is computed once a
/// pass. A pass is the same whatever the number of ranks. `advance` is told
/// of the requests that are done. Nothing where it was left. Collective over the mesh.
std::optional<Likelihoods> log_likelihoods(const AnsweringModel& answering,
                                           const std::vector<LikelihoodRequest>& requests,
                                           const std::function<void(std::int64_t)>& advance);

}  // namespace polymoe
