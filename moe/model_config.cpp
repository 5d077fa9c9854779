// SPDX-License-Identifier: Apache-2.0
#include "moe/model_config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "runtime/rounding.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

constexpr std::int64_t max_extent = std::int64_t{1} << 24;  // products of two fit far into 64 bits
constexpr std::int64_t max_count = std::int64_t{1} << 16;
constexpr std::int64_t max_experts = std::int64_t{1} << 20;  // of all layers

void check_heads(const ModelConfig& config, Violations& check) {
  check.in_range("model.heads", config.heads, 1, max_count);
  check.in_range("model.kv_heads", config.kv_heads, 0, max_count);
  if (config.heads < 1 || config.hidden < 1) return;
  if (config.hidden % (2 * config.heads) != 0) {
    check.must_be("model.heads", config.heads,
                  "such that model.hidden (" + std::to_string(config.hidden) +
                      ") is a multiple of 2 * heads: every head rotates pairs");
  }
  if (config.kv_heads > 0 && config.heads % config.kv_heads != 0) {
    check.must_be(
        "model.kv_heads", std::to_string(config.kv_heads),
        "0 (= model.heads) or a divisor of model.heads (" + std::to_string(config.heads) + ")");
  }
}

void check_moe(const ModelConfig& config, Violations& check) {
  const MoeConfig& moe = config.moe;
  check.in_range("moe.experts", moe.experts, 0, max_count);
  check.in_range("moe.top_k", moe.top_k, 1, moe.experts > 0 ? moe.experts : max_count);
  check.in_range("moe.expert_ffn", moe.expert_ffn, 0, max_extent);
  check.in_range("moe.shared_experts", moe.shared_experts, 0, max_count);
  check.not_negative("moe.balance_loss", moe.balance_loss);
  check.not_negative("moe.z_loss", moe.z_loss);
  check.not_negative("moe.bias_rate", moe.bias_rate);
  check.not_negative("moe.capacity_factor", moe.capacity_factor);
  if (!(moe.row_budget >= 1.0 && std::isfinite(moe.row_budget))) {
    check.must_be("moe.row_budget", std::to_string(moe.row_budget), "in [1, inf)");
  }
  std::vector<std::int64_t> seen;
  for (const std::int64_t layer : moe.dense_layers) {
    check.in_range("moe.dense_layers", layer, 0, std::max<std::int64_t>(config.layers, 1) - 1);
    if (std::find(seen.begin(), seen.end(), layer) != seen.end()) {
      check.must_be("moe.dense_layers", std::to_string(layer), "listed once");
    }
    seen.push_back(layer);
  }
}

}  // namespace

std::int64_t width_of_equal_parameters(std::int64_t width_of_three_matrices,
                                       ActivationKind activation) {
  return is_gated(activation) ? width_of_three_matrices : width_of_three_matrices * 3 / 2;
}

std::int64_t ModelConfig::dense_width() const {
  if (ffn > 0) return ffn;
  constexpr std::int64_t multiple = 128;
  const std::int64_t eight_thirds = (8 * hidden + 2) / 3;
  return width_of_equal_parameters(round_up(eight_thirds, multiple), activation.kind);
}

std::int64_t ModelConfig::expert_width() const {
  return moe.expert_ffn > 0 ? moe.expert_ffn
                            : width_of_equal_parameters(hidden / 2, activation.kind);
}

std::int64_t ModelConfig::shared_width() const { return moe.shared_experts * expert_width(); }

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  return moe.experts > 0 && std::find(moe.dense_layers.begin(), moe.dense_layers.end(), layer) ==
                                moe.dense_layers.end();
}

std::int64_t ModelConfig::moe_layers() const {
  std::int64_t count = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) count += is_moe_layer(layer);
  return count;
}

std::vector<std::string> ModelConfig::violations() const {
  Violations check;
  check.in_range("model.layers", layers, 1, max_count);
  check.in_range("model.hidden", hidden, 2, max_extent);
  check_heads(*this, check);
  check.in_range("model.ffn", ffn, 0, max_extent);
  check.in_range("model.vocab", vocab, 2, max_extent);
  check.in_range("model.context", context, 1, max_extent);
  if (has_order(activation.kind)) check.in_range("model.order", activation.order, 2, 4);
  check.positive("activation.epsilon", activation.epsilon);
  check.positive("model.norm_epsilon", norm_epsilon);
  check.positive("model.rope_theta", rope_theta);
  check.not_negative("model.init_std", init_std);
  check.not_negative("model.init_truncation", init_truncation);
  check_moe(*this, check);
  // Each has a name, initial values and a place in checkpoints.
  if (check.empty() && layers > max_experts / std::max<std::int64_t>(moe.experts, 1))
    check.must_be("moe.experts", moe.experts,
                  "at most " + std::to_string(max_experts) + " / model.layers (" +
                      std::to_string(layers) + ")");
  return check.take();
}

}  // namespace polymoe
