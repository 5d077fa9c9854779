// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "launch/data/huggingface_models.h"
#include "runtime/files/json.h"

namespace polymoe {

/// The "model" of kind Unigram, see make_piece_model(): the cut of a word into pieces whose scores
/// have the largest sum.
std::unique_ptr<PieceModel> make_unigram(const Json& model);

}  // namespace polymoe
