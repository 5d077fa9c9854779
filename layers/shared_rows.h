// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "layers/batch.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Sequences that may begin alike: what they share has one row, so that everything but attention
/// computes it once. A row is a token behind all tokens that precede it.
struct SharedRows {
  std::int64_t sequences = 0;
  std::int64_t length = 0;  // at least that of the longest sequence
  /// [sequences * length] i32: the row at each place; behind a sequence's end any row.
  Tensor row_of;
  /// [rows] i32: a place where each row stands.
  Tensor place_of;
  /// [rows] i32: its number less its position in a sequence, which is at least 0 where rows are
  /// numbered behind those that precede them.
  Tensor starts;

  std::int64_t rows() const { return place_of.dim(0); }
  /// For what looks at rows alone.
  BatchLayout rows_alone() const {
    return {.sequences = rows() > 0 ? 1 : 0,
            .length = rows() > 0 ? rows() : 1,
            .global = {.tokens = rows(), .sequences = 1, .micro_batches = 1}};
  }
};

}  // namespace polymoe
