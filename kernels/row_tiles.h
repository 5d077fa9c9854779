// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace polymoe {

/// Rows grouped by expert, each group cut evenly into tiles of about `tile_rows` rows: between 2/3
/// and 3/2 of it, unless the group itself is smaller. A tile never crosses groups. The cut depends
/// on the row counts alone, so sums over tiles do not depend on the number of threads.
class RowTiles {
 public:
  struct Tile {
    std::int64_t group;
    std::int64_t begin, end;  // rows
  };

  /// `offsets` holds groups + 1 ascending values and must outlive this object.
  RowTiles(const std::vector<std::int64_t>& offsets, std::int64_t tile_rows)
      : offsets_(offsets), tile_rows_(tile_rows) {
    for (std::size_t g = 0; g + 1 < offsets_.size(); ++g) count_ += tiles_of(rows_of(g));
  }

  std::int64_t count() const { return count_; }

  /// In order of rows. Takes time proportional to the groups.
  Tile operator[](std::int64_t index) const {
    for (std::size_t g = 0;; ++g) {
      const std::int64_t rows = rows_of(g), tiles = tiles_of(rows);
      if (index < tiles) {
        const std::int64_t start = offsets_[g];
        return {static_cast<std::int64_t>(g), start + cut(rows, tiles, index),
                start + cut(rows, tiles, index + 1)};
      }
      index -= tiles;
    }
  }

  /// Never less than count(), whatever the offsets.
  static std::int64_t max_count(std::int64_t rows, std::int64_t groups, std::int64_t tile_rows) {
    return rows / tile_rows + groups;
  }
  /// Never less than the rows of a tile, for tile_rows >= 64.
  static std::int64_t max_rows(std::int64_t tile_rows) { return tile_rows + tile_rows / 2; }

 private:
  // Tiles start at multiples of this within their group.
  static constexpr std::int64_t granularity = 16;

  std::int64_t rows_of(std::size_t group) const { return offsets_[group + 1] - offsets_[group]; }
  std::int64_t tiles_of(std::int64_t rows) const {
    if (rows == 0) return 0;
    const std::int64_t rounded = (rows + tile_rows_ / 2) / tile_rows_;
    return rounded == 0 ? 1 : rounded;
  }
  static std::int64_t cut(std::int64_t rows, std::int64_t tiles, std::int64_t index) {
    return index == tiles ? rows : rows * index / tiles / granularity * granularity;
  }

  const std::vector<std::int64_t>& offsets_;
  std::int64_t tile_rows_;
  std::int64_t count_ = 0;
};

}  // namespace polymoe
