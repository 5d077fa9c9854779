// SPDX-License-Identifier: Apache-2.0
#include "kernels/row_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "runtime/random.h"

namespace polymoe {
namespace {

TEST(RowTiles, CoverEveryRowOnceInOrder) {
  const RandomStream random(3, "offsets");
  for (std::uint64_t draw = 0; draw < 50; ++draw) {
    std::vector<std::int64_t> offsets{0};
    for (std::uint64_t g = 0; g < 1 + draw % 9; ++g) {
      // A third of the groups are empty.
      const std::uint64_t bits = random.bits(draw * 16 + g);
      offsets.push_back(offsets.back() +
                        (bits % 3 == 0 ? 0 : static_cast<std::int64_t>((bits >> 8) % 2000)));
    }
    for (const std::int64_t tile_rows : {64, 192, 512}) {
      const RowTiles tiles(offsets, tile_rows);
      std::int64_t row = 0;
      for (std::int64_t i = 0; i < tiles.count(); ++i) {
        const RowTiles::Tile tile = tiles[i];
        const std::int64_t first = offsets[static_cast<std::size_t>(tile.group)];
        EXPECT_EQ(tile.begin, row);
        EXPECT_EQ((tile.begin - first) % RowTiles::unit, 0);
        EXPECT_GT(tile.end, tile.begin);
        EXPECT_LE(tile.end - tile.begin, tile_rows);
        EXPECT_LE(tile.end, offsets[static_cast<std::size_t>(tile.group) + 1]);
        if (tile.begin == first) {
          EXPECT_EQ(tiles.first_of(tile.group), i);
        }
        row = tile.end;
      }
      EXPECT_EQ(row, offsets.back());
      EXPECT_LE(tiles.count(),
                RowTiles::max_count(offsets.back(), static_cast<std::int64_t>(offsets.size()) - 1,
                                    tile_rows));
    }
  }
}

TEST(RowTiles, AreEven) {
  const std::vector<std::int64_t> offsets{0, 600};
  const RowTiles tiles(offsets, 512);
  ASSERT_EQ(tiles.count(), 2);
  EXPECT_EQ(tiles[0].end, 320);
  EXPECT_EQ(tiles[1].end, 600);
}

}  // namespace
}  // namespace polymoe
