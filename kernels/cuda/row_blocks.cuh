// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "runtime/rounding.h"
#include "runtime/stream.h"

namespace polymoe::cuda {

/// Rows grouped by coefficient set, each group cut into blocks of `rows_per_block` rows: which rows
/// a thread block works on. A kernel parameter.
struct RowBlocks {
  static constexpr int max_groups = 128;

  struct Span {
    int group;
    std::int64_t begin, end;  // rows
  };

  __device__ Span operator[](int block) const {
    int low = 0, high = groups - 1;  // the last group that starts at or before `block`
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= block)
        low = middle;
      else
        high = middle - 1;
    }
    const std::int64_t begin =
        first_row[low] + std::int64_t{block - first_block[low]} * rows_per_block;
    const std::int64_t end = begin + rows_per_block;
    return {low, begin, end < first_row[low + 1] ? end : first_row[low + 1]};
  }
  int count() const { return first_block[groups]; }

  int groups = 0;
  int rows_per_block = 1;
  std::int64_t first_row[max_groups + 1];
  int first_block[max_groups + 1];
};

/// Calls launch(blocks, first_group) for up to max_groups groups at a time, leaving out what has no
/// rows.
template <class Launch>
void for_each_part(const std::vector<std::int64_t>& offsets, std::int64_t rows_per_block,
                   Launch&& launch) {
  const auto groups = static_cast<std::int64_t>(offsets.size()) - 1;
  for (std::int64_t first = 0; first < groups; first += RowBlocks::max_groups) {
    RowBlocks blocks;
    blocks.groups = static_cast<int>(std::min<std::int64_t>(RowBlocks::max_groups, groups - first));
    blocks.rows_per_block = static_cast<int>(rows_per_block);
    blocks.first_row[0] = offsets[static_cast<std::size_t>(first)];
    blocks.first_block[0] = 0;
    for (int g = 0; g < blocks.groups; ++g) {
      blocks.first_row[g + 1] = offsets[static_cast<std::size_t>(first + g + 1)];
      const std::int64_t rows = blocks.first_row[g + 1] - blocks.first_row[g];
      blocks.first_block[g + 1] =
          blocks.first_block[g] + static_cast<int>(divide_up(rows, rows_per_block));
    }
    if (blocks.count() > 0) launch(blocks, first);
  }
}

/// Second stage of the coefficients' gradients: adds to d_coefficients [groups, n] the sum over
/// each group's blocks of partial_sums [blocks, n], in a fixed order.
void add_partial_sums(const RowBlocks& blocks, const double* partial_sums, int n,
                      float* d_coefficients, Stream& stream);

}  // namespace polymoe::cuda
