// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/router/router.h"
#include "moe/measured_routing.h"

namespace polymoe {

/// Over which tokens the load-balance loss takes its means.
enum class BalanceScope : std::uint8_t {
  sequence,  // each sequence by itself: the same under any layout
  rank,      // a rank's micro-batch
  global,    // the micro-batches of all ranks together
};

/// Settings of the MoE layers, in forward-pass order.
struct MoeConfig {
  std::int64_t experts = 0;     // global; 0 = a dense model
  std::int64_t top_k = 1;       // in [1, experts]
  std::int64_t expert_ffn = 0;  // width of one expert; 0 = hidden / 2, times 1.5 with 2 matrices
  std::int64_t shared_experts = 0;         // experts that see every token, beside the routed ones
  std::vector<std::int64_t> dense_layers;  // layers that keep the dense feed-forward
  RouterRule router;
  bool coefficients_per_expert =
      false;  // activation coefficients: one set per expert, or per layer
  double balance_loss = 0.01;
  BalanceScope balance_scope = BalanceScope::sequence;
  double z_loss = 0.001;
  double bias_rate = 0.0;        // step of the per-expert bias; 0 = no bias
  double capacity_factor = 0.0;  // slots per expert and sequence / mean load; 0 = nothing dropped
  DropPolicy drop = DropPolicy::position;
  /// Rows that a rank's experts work off together, as a multiple of an even share; at least 1.
  double row_budget = 1.5;
  Routing routing = Routing::router;  // without a key: `bench` sets it
};

/// The width with which a feed-forward of that activation has as many parameters as one of three
/// matrices: half as much again for two matrices.
std::int64_t width_of_equal_parameters(std::int64_t width_of_three_matrices,
                                       ActivationKind activation);

/// A decoder language model.
struct ModelConfig {
  std::int64_t layers = 4;
  std::int64_t hidden = 256;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;  // 0 = heads
  std::int64_t ffn = 0;       // 0 = 8/3 hidden rounded up to 128, times 1.5 with 2 matrices
  std::int64_t vocab = 256;
  std::int64_t context = 256;
  Activation activation;
  bool qk_norm = false;  // RMSNorm of the whole q and k vectors before the split into heads
  bool tied = false;     // the output projection is the embedding
  double norm_epsilon = 1e-5;
  double rope_theta = 1e4;
  double init_std = 0.02;
  double init_truncation = 3.0;  // redraw beyond this many standard deviations; 0 = never
  MoeConfig moe;

  std::int64_t head_dim() const { return hidden / heads; }
  std::int64_t key_value_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  /// Width of the dense feed-forward, of one expert, of all shared experts: automatic ones
  /// resolved.
  std::int64_t dense_width() const;
  std::int64_t expert_width() const;
  std::int64_t shared_width() const;
  bool is_moe_layer(std::int64_t layer) const;
  std::int64_t moe_layers() const;

  /// One line per violated field: its key, value and allowed range. Empty if all is well.
  std::vector<std::string> violations() const;
};

}  // namespace polymoe
