// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/matmul_backends.h"

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/matmul/matmul.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

template <class T>
cpu::GemmOperand<T> operand(const Tensor& matrix, Transpose transpose) {
  return {matrix.data<T>(), std::max<std::int64_t>(matrix.dim(1), 1), transpose == Transpose::yes};
}

template <class T>
void run(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
         Write write, const Tensor& c) {
  const std::int64_t k = a.dim(transpose_a == Transpose::yes ? 0 : 1);
  cpu::gemm(c.dim(0), c.dim(1), k, T{1}, operand<T>(a, transpose_a), operand<T>(b, transpose_b),
            write == Write::accumulate ? T{1} : T{0}, c.data<T>(),
            std::max<std::int64_t>(c.dim(1), 1));
}

}  // namespace

void matmul(CpuBackend, const Tensor& a, Transpose transpose_a, const Tensor& b,
            Transpose transpose_b, Write write, Tensor c, Stream&) {
  if (c.dtype() == DType::f32) {
    run<float>(a, transpose_a, b, transpose_b, write, c);
  } else {
    run<double>(a, transpose_a, b, transpose_b, write, c);
  }
}

void time_products_late(CpuBackend, Stream&) {}
void forbid_timing_products(CpuBackend, Stream&) {}
void permit_timing_products(CpuBackend, Stream&) {}

}  // namespace polymoe::detail
