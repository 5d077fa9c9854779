// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "moe/model_config.h"
#include "parallel/checkpoint/checkpoint.h"

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

}  // namespace polymoe
