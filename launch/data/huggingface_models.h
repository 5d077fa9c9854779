// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// The model of a tokenizer file: a word to the ids of its pieces.
class PieceModel {
 public:
  virtual ~PieceModel() = default;
  /// One more than the largest id.
  virtual std::int64_t ids() const = 0;
  /// -1 where there is no such piece.
  virtual std::int32_t id_of(std::string_view piece) const = 0;
  /// Null where no piece has this id.
  virtual const std::string* piece_of(std::int32_t id) const = 0;
  /// Appends the ids of a word, which is not empty. Thread-safe.
  virtual void encode(std::string_view word, std::vector<std::int32_t>& ids) const = 0;
};

/// The "model" of a tokenizer file: BPE or Unigram. `byte_level`: words come as bytes, and the
/// vocabulary spells them. Throws InvalidArgument on a kind or setting that is not supported, and
/// on a file that contradicts itself.
std::unique_ptr<PieceModel> make_piece_model(const Json& model, bool byte_level);

}  // namespace polymoe
