// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "launch/config/config.h"
#include "runtime/device.h"

namespace polymoe {

/// What a rank's pass holds at most where the likelihoods of texts are asked for (see
/// SharedTokenBatch).
struct PassLimits {
  std::int64_t tokens = 0;  // that are computed; as many predictions
  std::int64_t places = 0;  // of attention: the same token in every sequence that has it
};

/// Whether the model's router drops tokens by sequence: sequences must be whole then, nothing of
/// them is shared.
bool drops_tokens(const ModelConfig& config);

/// Of a model in training: on a CPU whatever the number of ranks, so that they give the same bits;
/// on a GPU as many as memory was planned for.
PassLimits training_pass_limits(const Config& config, int ranks, Device device);

/// Of a model alone on a GPU: `tokens`, or a window.
PassLimits gpu_pass_limits(const Config& config, std::int64_t tokens);

}  // namespace polymoe
