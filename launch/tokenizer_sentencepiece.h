// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "launch/tokenizer.h"

namespace polymoe {

/// A sentencepiece model as a tokenizer. Throws InputFileError when it cannot be read, or has no id
/// that can end a document.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path);

}  // namespace polymoe
