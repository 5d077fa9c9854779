// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "moe/model_config.h"

namespace polymoe {

/// Parameters that take part in one token's prediction: all but the experts not chosen.
std::int64_t active_parameters(const ModelConfig& config);

/// Operations of one token's forward and backward pass: 6 per active weight of a product, plus
/// the attention scores of a causal context. Recomputation does not count.
double training_flops_per_token(const ModelConfig& config);

}  // namespace polymoe
