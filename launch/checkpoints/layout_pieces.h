// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "moe/language_model.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/parameters/parameter_store.h"
#include "parallel/parameters/sharded_optimizer.h"

namespace polymoe {

/// A rank of a layout that need not run.
struct RankOfLayout {
  int rank = 0;
  int ranks = 1;
  int expert_parallel = 1;
};

/// What that rank writes into a checkpoint of the model, with tensors on the meta device: sizes
/// without memory. Parameters and router biases, and the moments where `with_moments`.
/// Throws InvalidArgument when the layout cannot hold the model.
std::vector<TensorPiece> checkpoint_pieces(const ModelConfig& model, const RankOfLayout& place,
                                           bool with_moments);

/// What rank `rank` of a run writes: its share of parameters and optimizer state, and on rank 0 the
/// router biases, which are the same everywhere: a checkpoint holds each element once.
std::vector<TensorPiece> pieces_to_save(const ShardedOptimizer& optimizer, LanguageModel& model,
                                        int rank);

/// What a rank that goes on training reads back.
std::vector<TensorPiece> pieces_to_load(const ShardedOptimizer& optimizer, LanguageModel& model,
                                        bool with_moments);

/// What a rank reads that only computes.
std::vector<TensorPiece> pieces_to_infer(const ParameterStore& store, LanguageModel& model);

}  // namespace polymoe
