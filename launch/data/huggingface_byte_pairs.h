// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "launch/data/huggingface_models.h"
#include "runtime/files/json.h"

namespace polymoe {

/// The "model" of kind BPE, see make_piece_model(): a word starts as characters, or bytes, and the
/// pair of the lowest rank becomes one piece until no pair has a rank.
std::unique_ptr<PieceModel> make_byte_pairs(const Json& model, bool byte_level);

}  // namespace polymoe
