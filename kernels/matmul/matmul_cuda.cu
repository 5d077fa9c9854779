// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/matmul_backends.h"

#include "kernels/cuda/libraries/blas.h"
#include "kernels/matmul/row_products_cuda.h"

namespace polymoe::detail {

void matmul(CudaBackend, const Tensor& a, Transpose transpose_a, const Tensor& b,
            Transpose transpose_b, Write write, Tensor c, Stream& stream) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  if (c.dim(0) == 1 && !ta && tb && write == Write::overwrite) {
    cuda::multiply_row({.x = a.raw(),
                        .k = a.dim(1),
                        .input = a.dtype(),
                        .output = c.dtype(),
                        .parts = {{{b.raw(), c.raw(), nullptr, c.dim(1)}}},
                        .count = 1},
                       stream);
    return;
  }
  cuda::Blas::of(stream).multiply({.a = a.raw(),
                                   .transpose_a = ta,
                                   .b = b.raw(),
                                   .transpose_b = tb,
                                   .c = c.raw(),
                                   .accumulate = write == Write::accumulate,
                                   .m = c.dim(0),
                                   .n = c.dim(1),
                                   .k = a.dim(ta ? 0 : 1),
                                   .input = a.dtype(),
                                   .output = c.dtype()});
}

void time_products_late(CudaBackend, Stream& stream) {
  cuda::Blas::of(stream).timing().begin_late();
}
void forbid_timing_products(CudaBackend, Stream& stream) {
  cuda::Blas::of(stream).timing().forbid();
}
void permit_timing_products(CudaBackend, Stream& stream) {
  cuda::Blas::of(stream).timing().permit();
}

}  // namespace polymoe::detail
