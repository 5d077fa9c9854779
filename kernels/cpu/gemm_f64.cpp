// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <cstdint>

#include "runtime/rounding.h"

namespace polymoe::cpu {
namespace {

// One tile of c: the sum over k runs in ascending order whatever the number of threads.
constexpr std::int64_t tile_rows = 32, tile_columns = 64, tile_depth = 128;

struct Extents {
  std::int64_t m, n, k;
};

void gemm_tile(const Extents& extents, std::int64_t i0, std::int64_t j0, double alpha,
               GemmOperand<double> a, GemmOperand<double> b, double beta, double* c,
               std::int64_t ldc) {
  const std::int64_t rows = std::min(tile_rows, extents.m - i0);
  const std::int64_t columns = std::min(tile_columns, extents.n - j0);
  double sums[tile_rows][tile_columns] = {};
  double panel[tile_depth][tile_columns];  // op(b), columns beyond the edge are zero
  for (std::int64_t k0 = 0; k0 < extents.k; k0 += tile_depth) {
    const std::int64_t depth = std::min(tile_depth, extents.k - k0);
    for (std::int64_t k = 0; k < depth; ++k) {
      for (std::int64_t j = 0; j < columns; ++j) {
        panel[k][j] = b.transposed ? b.data[(j0 + j) * b.leading + k0 + k]
                                   : b.data[(k0 + k) * b.leading + j0 + j];
      }
      std::fill(panel[k] + columns, panel[k] + tile_columns, 0.0);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t k = 0; k < depth; ++k) {
        const double value = a.transposed ? a.data[(k0 + k) * a.leading + i0 + i]
                                          : a.data[(i0 + i) * a.leading + k0 + k];
        for (std::int64_t j = 0; j < tile_columns; ++j) sums[i][j] += value * panel[k][j];
      }
    }
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double& value = c[(i0 + i) * ldc + j0 + j];
      value = alpha * sums[i][j] + (beta == 0.0 ? 0.0 : beta * value);
    }
  }
}

}  // namespace

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, GemmOperand<double> a,
          GemmOperand<double> b, double beta, double* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  const Extents extents{m, n, k};
  const std::int64_t row_tiles = divide_up(m, tile_rows);
  const std::int64_t column_tiles = divide_up(n, tile_columns);
#pragma omp parallel for schedule(static) if (m * n * k > 65536)
  for (std::int64_t tile = 0; tile < row_tiles * column_tiles; ++tile) {
    gemm_tile(extents, tile / column_tiles * tile_rows, tile % column_tiles * tile_columns, alpha,
              a, b, beta, c, ldc);
  }
}

}  // namespace polymoe::cpu
