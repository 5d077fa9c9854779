// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "runtime/rounding.h"

namespace polymoe::cuda {

/// How a row lies in registers: `row_threads` threads with `held_vectors` vectors of 16 bytes each.
/// Narrow rows take a warp, and a block has several; wider ones a block of as many warps as leave
/// the fewest registers empty. held_vectors is 0 where a row does not fit or is not made of
/// vectors.
struct RowShape {
  static constexpr int max_threads = 512;
  static constexpr int warp = 32;
  static constexpr int max_held = 8;
  static constexpr int warps_side_by_side = 8;

  RowShape(std::int64_t width, int vector_size, bool in_vectors) {
    const std::int64_t vectors = width / vector_size;
    if (!in_vectors || vectors > std::int64_t{max_threads} * max_held) return;
    if (vectors <= warp * max_held) {
      held_vectors = rounded(static_cast<int>(divide_up(vectors, warp)));
      row_threads = warp;
      block_threads = warp * warps_side_by_side;
      return;
    }
    std::int64_t fewest = 0;
    for (const int held : {4, 6, 3, 8}) {
      const std::int64_t warps = divide_up(vectors, held * warp);
      const std::int64_t room = warps * warp * held;
      if (warps * warp > max_threads || (fewest != 0 && room >= fewest)) continue;
      fewest = room;
      held_vectors = held;
      row_threads = block_threads = static_cast<int>(warps) * warp;
    }
  }

  /// Rows that a block works on side by side.
  int rows_at_once() const { return block_threads / row_threads; }

  /// The fewest rows that make at most `max_blocks` blocks of a multiple of rows_at_once().
  std::int64_t rows_per_block(std::int64_t rows, std::int64_t max_blocks) const {
    const std::int64_t wanted = std::max<std::int64_t>(1, divide_up(rows, max_blocks));
    return round_up(wanted, rows_at_once());
  }

  /// Calls operation(std::integral_constant<int, held_vectors>).
  template <class Operation>
  void with_held_vectors(Operation&& operation) const {
    switch (held_vectors) {
      case 1:
        return operation(std::integral_constant<int, 1>{});
      case 2:
        return operation(std::integral_constant<int, 2>{});
      case 3:
        return operation(std::integral_constant<int, 3>{});
      case 4:
        return operation(std::integral_constant<int, 4>{});
      case 6:
        return operation(std::integral_constant<int, 6>{});
      default:
        return operation(std::integral_constant<int, 8>{});
    }
  }

  int held_vectors = 0;
  int row_threads = 256;
  int block_threads = 256;

 private:
  // 5 and 7 are not worth kernels of their own.
  static int rounded(int held) { return held == 5 || held == 7 ? held + 1 : std::max(held, 1); }
};

}  // namespace polymoe::cuda
