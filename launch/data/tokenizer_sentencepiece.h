// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "launch/data/tokenizer.h"

namespace polymoe {

/// A sentencepiece model as a tokenizer. Throws InputFileError when it cannot be read, or has no id
/// that can end a document.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path);

/// What another program must be told to encode text by a sentencepiece model in the same way.
struct SentencepieceTraits {
  bool byte_pairs = false;          // its pieces come of merges, not of a unigram model
  bool prefix_blank = false;        // a blank is put before the text
  std::string begin, end, unknown;  // pieces; empty where there is none
};

/// Throws InputFileError when the model cannot be read.
SentencepieceTraits sentencepiece_traits(const std::string& path);

}  // namespace polymoe
