// SPDX-License-Identifier: Apache-2.0
#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "runtime/error.h"
#include "runtime/rounding.h"

namespace polymoe::cpu {
namespace {

/// One product: c [m, n] = alpha op(a) op(b) + beta c.
struct Product {
  std::int64_t m, n, k;
  float alpha;
  GemmOperand<float> a, b;
  float beta;
  float* c;
  std::int64_t ldc;
};

void run_onednn(const Product& p) {
  const dnnl_status_t status =
      dnnl_sgemm(p.a.transposed ? 'T' : 'N', p.b.transposed ? 'T' : 'N', p.m, p.n, p.k, p.alpha,
                 p.a.data, p.a.leading, p.b.data, p.b.leading, p.beta, p.c, p.ldc);
  if (status != dnnl_success) {
    throw DeviceError("dnnl_sgemm failed with status " + std::to_string(status) +
                      " for m = " + std::to_string(p.m) + ", n = " + std::to_string(p.n) +
                      ", k = " + std::to_string(p.k));
  }
}

blasint blas_int(std::int64_t value) {
  if (value > std::numeric_limits<blasint>::max()) {
    throw DeviceError("a matrix product has an extent of " + std::to_string(value) +
                      ", OpenBLAS takes at most " +
                      std::to_string(std::numeric_limits<blasint>::max()));
  }
  return static_cast<blasint>(value);
}

// An OpenBLAS that runs on OpenMP sees that it is called inside a parallel region (all products but
// those too small to divide are); one with threads of its own must be told that they are ours.
bool keep_to_one_thread() {
  if (openblas_get_parallel() == OPENBLAS_THREAD) openblas_set_num_threads(1);
  return true;
}

void run_openblas(const Product& p) {
  [[maybe_unused]] static const bool kept = keep_to_one_thread();
  cblas_sgemm(CblasRowMajor, p.a.transposed ? CblasTrans : CblasNoTrans,
              p.b.transposed ? CblasTrans : CblasNoTrans, blas_int(p.m), blas_int(p.n),
              blas_int(p.k), p.alpha, p.a.data, blas_int(p.a.leading), p.b.data,
              blas_int(p.b.leading), p.beta, p.c, blas_int(p.ldc));
}

bool without_avx512() {
  static const bool result =
      (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) != dnnl_cpu_isa_avx512_core;
  return result;
}

// OpenBLAS packs both operands, which costs 1/n and 1/m of the product; oneDNN reads small ones in
// place, well unless a is transposed. Where the two meet was measured on an AMD EPYC with AVX2.
// With AVX-512 oneDNN alone brings the experts' feed-forward to 93 to 98 % of the rate of large
// products.
bool reads_in_place(const Product& p) {
  const std::int64_t limit = p.b.transposed ? 176 : 143;
  return !p.a.transposed && limit * (p.m + p.n) >= p.m * p.n;
}

void run_on_one_thread(const Product& p) {
  if (without_avx512() && !reads_in_place(p)) {
    run_openblas(p);
  } else {
    run_onednn(p);
  }
}

Product part(const Product& whole, std::int64_t row, std::int64_t rows, std::int64_t column,
             std::int64_t columns) {
  Product p = whole;
  p.m = rows;
  p.n = columns;
  p.a.data += row * (p.a.transposed ? 1 : p.a.leading);
  p.b.data += column * (p.b.transposed ? p.b.leading : 1);
  p.c += row * p.ldc + column;
  return p;
}

void scale(const Product& p) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      float& value = p.c[i * p.ldc + j];
      value = p.beta == 0.0F ? 0.0F : p.beta * value;
    }
  }
}

struct Grid {
  std::int64_t rows, columns;  // of a part, multiples of 16 but for the last
};

// Two parts for every thread, as near to squares as the factors allow: a part packs its operands
// for itself.
Grid grid_of(const Product& p, std::int64_t threads) {
  const std::int64_t parts = 2 * threads;
  Grid best{p.m, p.n};
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t down = 1; down <= parts; ++down) {
    if (parts % down != 0) continue;
    const std::int64_t across = parts / down;
    const Grid grid{divide_up(divide_up(p.m, down), 16) * 16,
                    divide_up(divide_up(p.n, across), 16) * 16};
    // A part's time: its area, and what packing adds to it.
    const double rows = static_cast<double>(std::min(grid.rows, p.m));
    const double columns = static_cast<double>(std::min(grid.columns, p.n));
    const double cost = rows * columns + 16 * (rows + columns);
    if (cost < least) {
      least = cost;
      best = grid;
    }
  }
  return best;
}

void run_on_all_threads(const Product& p) {
  const Grid grid = grid_of(p, omp_get_max_threads());
  const std::int64_t across = divide_up(p.n, grid.columns);
  parallel_for(divide_up(p.m, grid.rows) * across, [&](std::int64_t i) {
    const std::int64_t row = i / across * grid.rows, column = i % across * grid.columns;
    run_on_one_thread(
        part(p, row, std::min(grid.rows, p.m - row), column, std::min(grid.columns, p.n - column)));
  });
}

}  // namespace

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, GemmOperand<float> a,
          GemmOperand<float> b, float beta, float* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  const Product product{m, n, k, alpha, a, b, beta, c, ldc};
  if (k == 0) return scale(product);
  constexpr std::int64_t few_rows = 8;  // read from memory b at its bandwidth
  if (omp_in_parallel() || omp_get_max_threads() == 1) {
    run_on_one_thread(product);
  } else if (without_avx512() || m <= few_rows) {
    run_on_all_threads(product);
  } else {
    run_onednn(product);
  }
}

}  // namespace polymoe::cpu
