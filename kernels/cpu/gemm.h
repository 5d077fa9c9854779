// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cpu {

/// A row-major matrix argument with its leading dimension, transposed on reading or not.
template <class T>
struct GemmOperand {
  const T* data;
  std::int64_t leading;
  bool transposed;
};

/// c = alpha op(a) op(b) + beta c; op(a) [m, k], op(b) [k, n], c [m, n] with leading dimension
/// ldc. With beta = 0, c is not read. On all threads, or on one when called inside a parallel
/// region. float: oneDNN with AVX-512; without it OpenBLAS, or oneDNN for the few rows or columns
/// that it multiplies better, over parts of c. double: plain blocked loops, for tests.
/// Errors: DeviceError with the extents where a library fails.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, GemmOperand<float> a,
          GemmOperand<float> b, float beta, float* c, std::int64_t ldc);
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, GemmOperand<double> a,
          GemmOperand<double> b, double beta, double* c, std::int64_t ldc);

}  // namespace polymoe::cpu
