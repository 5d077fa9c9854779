// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_models.h"

#include <fmt/core.h>

#include <memory>
#include <string>

#include "launch/data/huggingface_byte_pairs.h"
#include "launch/data/huggingface_unigram.h"
#include "launch/data/huggingface_vocabulary.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {

std::unique_ptr<PieceModel> make_piece_model(const Json& model, bool byte_level) {
  // Old files of byte pairs do not name their kind.
  const std::string type = text_of(model, "type", model.find("merges") != nullptr ? "BPE" : "");
  if (type == "BPE") return make_byte_pairs(model, byte_level);
  if (type == "Unigram") {
    if (byte_level)
      throw InvalidArgument(
          "model Unigram is not supported together with a byte-level pre-tokenizer");
    return make_unigram(model);
  }
  throw InvalidArgument(fmt::format("model '{}' is not supported: must be BPE or Unigram", type));
}

}  // namespace polymoe
