// SPDX-License-Identifier: Apache-2.0
#include "launch/step/pass_limits.h"

#include <algorithm>
#include <cstdint>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "moe/model_config.h"
#include "runtime/device.h"

namespace polymoe {
namespace {

// A place costs memory and attention, but no feed-forward. Few-shot prompts repeat most of theirs.
constexpr std::int64_t places_per_token = 8, places_per_token_of_a_cpu = 4;

}  // namespace

bool drops_tokens(const ModelConfig& config) {
  return config.moe.experts > 0 && config.moe.capacity_factor > 0.0;
}

PassLimits training_pass_limits(const Config& config, int ranks, Device device) {
  const std::int64_t context = config.model.context;
  if (device.type == DeviceType::cuda) {
    const std::int64_t planned = shares_of(config, ranks).largest() * context;
    return {.tokens = planned, .places = planned};
  }
  constexpr std::int64_t most = 8192;
  const std::int64_t tokens =
      std::max(context, std::min(most, config.train.global_batch * context));
  return {.tokens = tokens,
          .places = drops_tokens(config.model) ? tokens : places_per_token_of_a_cpu * tokens};
}

PassLimits gpu_pass_limits(const Config& config, std::int64_t tokens) {
  tokens = std::max(tokens, config.model.context);
  return {.tokens = tokens,
          .places = drops_tokens(config.model) ? tokens : places_per_token * tokens};
}

}  // namespace polymoe
