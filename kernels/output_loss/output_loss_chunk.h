// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/tensor.h"

namespace polymoe::detail {

/// What output_loss keeps of one chunk of rows.
struct OutputLossChunk {
  Tensor logits;    // [rows of a chunk, vocab], of accumulation_dtype(x's dtype)
  Tensor d_logits;  // [rows of a chunk, vocab], of x's dtype; in the place of logits if that fits
};

}  // namespace polymoe::detail
