// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "layers/batch.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Sequences that may begin alike: what they share has one row, so that everything but attention
/// computes it once. A row is a token behind all tokens that precede it.
///
/// Attention is computed group by group. It has keys at every place of every sequence; queries only
/// where a row may be new, which is behind the first `known` places. A sequence all of whose rows
/// have queries in others need not be in any group.
struct SharedRows {
  struct Group {
    std::int64_t sequences = 0;
    std::int64_t length = 0;  // at least that of the longest sequence
    std::int64_t known = 0;   // in [0, length): of each of them

    std::int64_t places() const { return sequences * length; }
    std::int64_t queries() const { return sequences * (length - known); }
  };
  /// They follow each other in row_of and query_of.
  std::vector<Group> groups;
  /// [places()] i32: the row at each place; behind a sequence's end any row.
  Tensor row_of;
  /// [queries()] i32: the row of each query, in the order of the places.
  Tensor query_of;
  /// [rows] i32: a query of each row.
  Tensor place_of;
  /// [rows] i32: its number less its position in a sequence, which is at least 0 where rows are
  /// numbered behind those that precede them.
  Tensor starts;

  std::int64_t rows() const { return place_of.dim(0); }
  std::int64_t places() const {
    std::int64_t all = 0;
    for (const Group& group : groups) all += group.places();
    return all;
  }
  std::int64_t queries() const {
    std::int64_t all = 0;
    for (const Group& group : groups) all += group.queries();
    return all;
  }
  /// For what looks at rows alone.
  BatchLayout rows_alone() const {
    return {.sequences = rows() > 0 ? 1 : 0,
            .length = rows() > 0 ? rows() : 1,
            .global = {.tokens = rows(), .sequences = 1, .micro_batches = 1}};
  }
};

}  // namespace polymoe
