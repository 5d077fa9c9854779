// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// What is done to a text before it is cut into words.
using Normalizer = std::function<void(std::string& text)>;
/// The "normalizer" of a tokenizer file; null where it has none. Throws InvalidArgument on a kind
/// that is not supported, with those that are.
Normalizer make_normalizer(const Json* json);
/// The same for text that goes on behind other text: without what is put before a text.
Normalizer make_normalizer_within(const Json* json);

/// A text cut into pieces, in order. The pieces view the text or strings owned here.
struct TextPieces {
  struct Piece {
    std::string_view text;
    bool starts_text;      // stands at the front of the whole text
    bool goes_on = false;  // behind other text: no blank is put before it
  };
  std::vector<Piece> pieces;
  std::deque<std::string> owned;
};

/// How a text is cut into words.
struct WordRule {
  /// Cuts the pieces further. Null: they stay.
  std::function<void(TextPieces& text)> cut;
  /// Words go into the model as bytes that its vocabulary spells.
  bool byte_level = false;
};
/// The "pre_tokenizer" of a tokenizer file. Throws InvalidArgument on a kind that is not supported.
WordRule make_word_rule(const Json* json);

/// Turns the pieces of ids into text, as the "decoder" of a tokenizer file says: rewrites a list of
/// pieces, whose concatenation in the end is the text (bytes, maybe no UTF-8).
using PieceDecoder = std::function<void(std::vector<std::string>& pieces)>;
struct Decoding {
  PieceDecoder whole;  // of a whole sequence
  /// Leaves out what only the ends of a text undergo: for one piece within a text.
  PieceDecoder within;
};
/// Throws InvalidArgument on a kind that is not supported.
Decoding make_decoding(const Json* json);

}  // namespace polymoe
