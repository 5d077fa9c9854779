// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/matmul/row_products.h"
#include "kernels/router/router.h"
#include "layers/batch.h"
#include "moe/model_config.h"
#include "moe/routing_statistics.h"
#include "parallel/communication/communicator.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/buffer.h"
#include "runtime/context.h"

namespace polymoe {

/// The gate of one MoE layer: logits = weight x, the experts and weights of each token, the losses
/// that keep the experts' loads even, and the bias that does so without a loss.
///
/// With coefficient b of the balance loss and c of the z loss, both divided by the number of the
/// model's MoE layers, a micro-batch adds to the step's loss
///   b * w * sum over segments of experts * sum_e f_e P_e  +  c / (global rows) * sum of lse^2
/// without rows that hold no token, where segment and its weight w depend on the scope: a sequence,
/// 1 / global sequences; the rank's micro-batch, 1 / global micro-batches; the micro-batches of all
/// ranks, ranks / global micro-batches (each rank then adds its share of P). f is taken as constant
/// in the gradient.
class Router {
 public:
  /// What backward needs from forward.
  struct Saved {
    RouterShape shape;
    RouterState state;
    Tensor logits;  // [rows, experts] as the state, where the z loss of sigmoid scores needs them
  };

  /// Declares "NAME.weight" [experts, hidden]. `world` is used with BalanceScope::global only.
  Router(ParameterStore& store, const std::string& name, const ModelConfig& config,
         Communicator& world);

  void forward(const Tensor& x, const BatchLayout& layout, Saved& saved, ExecutionContext& context);
  /// What the experts of one row are chosen by, its logits in the arena.
  ExpertChoice choice_of(const RowInput& input, ExecutionContext& context);

  /// The sum over `world` of the micro-batch's counts on its way; nothing in the other scopes.
  /// Goes before backward, so that other work hides it. Collective over `world` where global.
  Pending start_backward(const Saved& saved, const Tensor& kept_counts, ExecutionContext& context);
  /// Writes or adds d_x, adds to the weight's gradient and to the losses. Waits for `counts`.
  ///
  /// d_weights [rows, top_k]; d_x [rows, hidden]
  void backward(const Tensor& x, const Tensor& d_weights, const BatchLayout& layout,
                const Saved& saved, Pending counts, Write write, Tensor d_x,
                ExecutionContext& context);

  /// Losses of the backward passes since the last call.
  RouterLosses take_losses(Stream& stream);
  /// Slots per expert routed in backward passes since the last call, then the dropped ones.
  std::vector<std::int64_t> take_counts(Stream& stream);
  /// bias_e += bias_rate * sign(mean - count_e); nothing without a bias.
  void update_bias(const std::vector<std::int64_t>& global_counts, Stream& stream);
  /// [experts] f32, or undefined.
  Tensor bias();

 private:
  RouterShape shape_of(const BatchLayout& layout) const;
  /// The factors of a micro-batch's losses.
  RouterLosses scales_of(const BatchLayout& layout) const;
  bool sums_counts() const;
  void make_persistent_state();
  /// logits = 1 for the experts that are chosen, 0 for the others.
  void choose_for(const BatchLayout& layout, const Tensor& logits, Stream& stream);

  const ParameterStore& store_;
  std::string name_;
  MoeConfig moe_;
  RouterLosses coefficients_;  // of this layer
  Communicator& world_;
  Parameter* weight_;

  // Made at first use, when the store knows its device.
  OwnedTensor bias_;    // [experts] f32
  OwnedTensor losses_;  // [2] f64
  OwnedTensor counts_;  // [experts + 1] i64
  OwnedTensor chosen_;  // as the logits, where the router does not choose
};

}  // namespace polymoe
