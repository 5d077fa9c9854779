// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe {

/// Where the rows of a batch, or of a part of it, are written.
struct TokenRows {
  std::int32_t* tokens = nullptr;
  std::int32_t* targets = nullptr;  // -1 = not predicted
  /// See kernels/documents.h; null where every sequence is one document.
  std::int32_t* document_starts = nullptr;

  /// From row `first` on.
  TokenRows from(std::int64_t first) const {
    return {tokens + first, targets + first,
            document_starts == nullptr ? nullptr : document_starts + first};
  }
};

}  // namespace polymoe
