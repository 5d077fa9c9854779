// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "layers/feed_forward.h"
#include "moe/exchange_traffic.h"
#include "moe/model_config.h"
#include "moe/routing_statistics.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"

namespace polymoe {

/// Mixture-of-experts feed-forward: router -> plan -> dispatch -> experts -> combine, plus the
/// shared experts where there are any.
///
///   y[t] = sum over the chosen experts e of weight[t, e] * expert_e(x[t])  +  shared(x[t])
///
/// The router's weights travel with the rows and are applied inside the expert feed-forward, so
/// that combining is a plain sum and no expert output is kept.
///
/// forward and backward are collective over the mesh's `expert` group, backward also over `world`
/// with BalanceScope::global. Zero rows are normal. On the meta device the slots are taken as
/// spread evenly over the experts, rounded up.
class MoeLayer final : public FeedForward {
 public:
  /// Declares the parameters in `store`: "layers.L.router.weight" [experts, hidden],
  /// "layers.L.experts.E.up.weight" [factor * width, hidden], "layers.L.experts.E.down.weight"
  /// [hidden, width] with global expert ids, the activation's coefficients
  /// "layers.L.experts.coefficients" [n] (scope dense, no decay) or one
  /// "layers.L.experts.E.coefficients" [n] per expert (scope expert), and
  /// "layers.L.shared.{up,down}.weight", "layers.L.shared.coefficients".
  /// Throws InvalidArgument unless the expert-parallel size divides the experts.
  MoeLayer(const ModelConfig& config, std::int64_t layer, const ProcessMesh& mesh,
           ParameterStore& store);
  ~MoeLayer() override;

  std::unique_ptr<Saved> make_saved() const override;
  void forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
               ExecutionContext& context) override;
  /// Where the experts are all here and none drops a token, which they are is known to the device
  /// alone; else as forward.
  void step(const Tensor& x, const RmsNorm& norm, Saved& saved, Tensor y,
            ExecutionContext& context) override;
  bool step_is_recordable() const override;
  View view(const Saved& saved, ExecutionContext& context) const override;
  /// y = expert(x) for one of this rank's experts, by its global id, whatever the router thinks of
  /// the rows; overwrites y. Throws InvalidArgument where the expert is another rank's.
  ///
  /// x, y [rows, hidden]
  void apply_expert(std::int64_t expert, const Tensor& x, Tensor y,
                    ExecutionContext& context) const;
  /// Counts the micro-batch in the step's statistics and losses as well.
  void backward(const Tensor& d_y, const BatchLayout& layout, Saved& saved, Tensor d_x,
                ExecutionContext& context) override;

  /// Losses of the backward passes since the last call: what this rank's rows add, coefficients and
  /// the mean over the model's MoE layers included. Summed over ranks and micro-batches they are
  /// the step's.
  RouterLosses take_losses(Stream& stream);
  /// Slots per expert routed by this rank since the last take_counts: [experts], and the dropped
  /// ones last.
  std::vector<std::int64_t> take_counts(Stream& stream);

  /// Rounds beyond the first that this rank's rows took in backward passes since the last call:
  /// more rows than moe.row_budget came.
  std::int64_t take_extra_rounds();

  /// Since the last call.
  ExchangeTraffic take_traffic();

  /// Moves the selection bias by bias_rate * sign(mean load - load) for the global counts of a
  /// step. Source: arXiv:2408.15664.
  void update_bias(const std::vector<std::int64_t>& global_counts, Stream& stream);
  /// [experts] f32, or undefined without biases. The same on every rank.
  Tensor bias() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace polymoe
