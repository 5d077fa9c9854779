// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/rounding.h"

namespace polymoe {

/// Rows grouped by expert, each group cut into the fewest tiles of at most `tile_rows` rows, evenly
/// up to multiples of RowTiles::unit. A tile never crosses groups; an empty group has none.
class RowTiles {
 public:
  struct Tile {
    std::int64_t group;
    std::int64_t begin, end;  // rows
  };

  /// Within its group a tile starts at a multiple of this. Tiles of this size are the blocks over
  /// which gradients are summed: they do not depend on how work is spread over threads.
  static constexpr std::int64_t unit = 64;

  /// Blocks over which a GPU sums gradients, not counting one more for each group.
  static constexpr std::int64_t max_partial_blocks = 2048;

  /// `offsets` holds groups + 1 ascending values and must outlive this object; tile_rows is a
  /// positive multiple of `unit`.
  RowTiles(const std::vector<std::int64_t>& offsets, std::int64_t tile_rows)
      : offsets_(offsets), tile_rows_(tile_rows) {
    assert(tile_rows > 0 && tile_rows % unit == 0);
    count_ = first_of(static_cast<std::int64_t>(offsets_.size()) - 1);
  }

  std::int64_t count() const { return count_; }

  /// In order of rows. Takes time proportional to the groups.
  Tile operator[](std::int64_t index) const {
    assert(index >= 0 && index < count_);
    for (std::size_t group = 0;; ++group) {
      const std::int64_t rows = rows_of(group), tiles = tiles_of(rows);
      if (index >= tiles) {
        index -= tiles;
        continue;
      }
      const std::int64_t even = divide_up(rows, tiles);
      const std::int64_t size = round_up(even, unit);
      const std::int64_t begin = index * size;
      const std::int64_t end = begin + size < rows ? begin + size : rows;
      return {static_cast<std::int64_t>(group), offsets_[group] + begin, offsets_[group] + end};
    }
  }

  /// Index of the group's first tile: the number of tiles before it.
  std::int64_t first_of(std::int64_t group) const {
    std::int64_t tiles = 0;
    for (std::size_t g = 0; g < static_cast<std::size_t>(group); ++g) tiles += tiles_of(rows_of(g));
    return tiles;
  }

  /// Never less than count(), whatever the offsets.
  static std::int64_t max_count(std::int64_t rows, std::int64_t groups, std::int64_t tile_rows) {
    return rows / tile_rows + groups;
  }

 private:
  std::int64_t rows_of(std::size_t group) const { return offsets_[group + 1] - offsets_[group]; }
  std::int64_t tiles_of(std::int64_t rows) const { return divide_up(rows, tile_rows_); }

  const std::vector<std::int64_t>& offsets_;
  std::int64_t tile_rows_;
  std::int64_t count_ = 0;
};

}  // namespace polymoe
