// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"

namespace polymoe {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;        // on parameters that say `decay`
  DType moment_dtype = DType::f32;  // f32, or bf16: half the memory of the moments
};

/// Whether a tensor of a checkpoint is of one of the optimizer_state_kinds (kernels/adamw/adamw.h).
bool is_optimizer_state(std::string_view tensor);

/// The values of a rank's parameters, to be read from a checkpoint: "parameter/NAME".
std::vector<TensorPiece> value_pieces(const ParameterStore& store);

/// AdamW whose state exists once per group that reduces a parameter (ZeRO stage 1): each rank
/// updates the slices it owns, then all gather the new values. The state is two moments and, where
/// the values are bf16, the 16 lower bits of their f32 masters: a bf16 value and these bits
/// together are the master (kernels/split_float), and the value is the master rounded.
class ShardedOptimizer {
 public:
  /// After the store's allocate(). State starts at zero; with f64 parameters the moments are f64.
  ShardedOptimizer(ParameterStore& store, const AdamWOptions& options);

  /// Values and masters start by the parameters' initializers.
  void initialize(std::uint64_t seed, Stream& stream);

  /// sqrt of the sum of squares of the whole gradient, every parameter once; after reduction.
  /// Every rank gets the same. Collective over `world`.
  /// 0 on the meta device.
  double gradient_norm(Communicator& world, ExecutionContext& context);

  /// One update with gradients scaled by gradient_scale; then the new values reach all ranks.
  /// Collective. Steps count from 1 for the bias corrections.
  void step(double learning_rate, double gradient_scale, ExecutionContext& context);

  std::int64_t steps_done() const { return steps_done_; }
  void set_steps_done(std::int64_t steps) { steps_done_ = steps; }

  /// Bytes of this rank's moments and masters' lower bits.
  std::size_t bytes() const;

  /// This rank's share of parameters and moments, to be written: each element of the model once
  /// over all ranks. Names: "parameter/NAME", and KIND/NAME of every kind of state.
  std::vector<TensorPiece> pieces_to_save() const;
  /// What this rank must read back: all of its parameters, and the moments it owns.
  std::vector<TensorPiece> pieces_to_load(bool with_moments) const;

 private:
  /// Part of an owned slice whose parameters all decay or all do not.
  struct Run {
    ParameterStore::Range range;  // of the flat buffer
    bool decay;
  };
  struct Shard {
    // The owned slices of all segments, one behind the other, of each kind of state.
    std::array<OwnedTensor, optimizer_state_kinds.size()> state;
    OwnedTensor low;                     // likewise, beside bf16 values: of their masters
    std::vector<std::int64_t> begin;     // per segment, in these
    std::vector<std::vector<Run>> runs;  // per segment
  };

  const Shard& shard(ParameterScope scope) const {
    return shards_[static_cast<std::size_t>(scope)];
  }
  /// visit(shard, scope, range, begin): every owned range of a logical tensor, which begins at
  /// `begin` in the shard's tensors.
  template <class Visit>
  void for_each_owned(Visit visit) const;
  void update_segment(ParameterScope scope, int segment, const AdamWStep& step, Stream& stream);

  ParameterStore& store_;
  AdamWOptions options_;
  std::array<Shard, parameter_scopes> shards_;
  std::int64_t steps_done_ = 0;
};

}  // namespace polymoe
