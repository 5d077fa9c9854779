// SPDX-License-Identifier: Apache-2.0
#include "moe/model_size.h"

#include <cstdint>

#include "kernels/activation/activation.h"
#include "moe/model_config.h"

namespace polymoe {
namespace {

/// Parameters that one token meets.
struct ActiveParameters {
  std::int64_t products = 0;  // weights of matrix products, the output projection included
  std::int64_t others = 0;    // norms, coefficients
};

/// `experts` feed-forwards of one width behind the same input.
void add_feed_forward(const ModelConfig& config, std::int64_t experts, std::int64_t width,
                      std::int64_t coefficient_sets, ActiveParameters& active) {
  const std::int64_t matrices = pre_activation_factor(config.activation.kind) + 1;
  active.products += experts * matrices * width * config.hidden;
  active.others += coefficient_sets * coefficient_count(config.activation);
}

ActiveParameters count_active(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden;
  const std::int64_t kv_width = config.key_value_heads() * config.head_dim();
  ActiveParameters active;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    active.products += 2 * hidden * hidden + 2 * kv_width * hidden;  // q and o, k and v
    active.others += 2 * hidden + (config.qk_norm ? hidden + kv_width : 0);
    if (config.is_moe_layer(layer)) {
      const MoeConfig& moe = config.moe;
      active.products += moe.experts * hidden;  // router
      add_feed_forward(config, moe.top_k, config.expert_width(),
                       moe.coefficients_per_expert ? moe.top_k : 1, active);
      if (moe.shared_experts > 0) add_feed_forward(config, 1, config.shared_width(), 1, active);
    } else {
      add_feed_forward(config, 1, config.dense_width(), 1, active);
    }
  }
  active.products += config.vocab * hidden;
  active.others += hidden;
  return active;
}

}  // namespace

std::int64_t active_parameters(const ModelConfig& config) {
  const ActiveParameters active = count_active(config);
  const std::int64_t embedding = config.tied ? 0 : config.vocab * config.hidden;
  return active.products + active.others + embedding;
}

double training_flops_per_token(const ModelConfig& config) {
  // A weight of a product multiplies and adds once forward and, for the two gradients, twice
  // backward. Scores and their weighted sum of values cost as much per head dimension and key; the
  // token at position t sees t + 1 keys, (context + 1) / 2 on average.
  const double per_key = 2.0 * 2.0 * 3.0 * static_cast<double>(config.heads * config.head_dim());
  const double mean_keys = static_cast<double>(config.context + 1) / 2.0;
  return 6.0 * static_cast<double>(count_active(config).products) +
         static_cast<double>(config.layers) * per_key * mean_keys;
}

}  // namespace polymoe
