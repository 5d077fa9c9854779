// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// The ids that a tokenizer file puts around every text.
struct TextFrame {
  std::vector<std::int32_t> before, after;
};

/// Reads the "post_processor" of a tokenizer file, for a single text; null: nothing. Throws
/// InvalidArgument on a kind that is not supported, and on one that contradicts itself.
TextFrame read_text_frame(const Json* post_processor);

}  // namespace polymoe
