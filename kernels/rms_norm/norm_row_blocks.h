// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/rounding.h"

namespace polymoe {

/// Blocks of rows over which a norm sums its weight's gradient, before it sums over the blocks: at
/// most `most`. Their number depends on the rows alone, so that the order of the sum does not
/// depend on threads or the GPU.
inline std::int64_t norm_row_blocks(std::int64_t rows, std::int64_t most) {
  constexpr std::int64_t fewest_rows = 16;
  return std::min(most, divide_up(rows, fewest_rows));
}

}  // namespace polymoe
