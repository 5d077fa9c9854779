// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"

namespace polymoe::detail {

void matmul(CpuBackend, const Tensor& a, Transpose transpose_a, const Tensor& b,
            Transpose transpose_b, Write write, Tensor c, Stream& stream);

void matmul(CudaBackend, const Tensor& a, Transpose transpose_a, const Tensor& b,
            Transpose transpose_b, Write write, Tensor c, Stream& stream);

void time_products_late(CpuBackend, Stream& stream);
void time_products_late(CudaBackend, Stream& stream);

void forbid_timing_products(CpuBackend, Stream& stream);
void forbid_timing_products(CudaBackend, Stream& stream);
void permit_timing_products(CpuBackend, Stream& stream);
void permit_timing_products(CudaBackend, Stream& stream);

}  // namespace polymoe::detail
