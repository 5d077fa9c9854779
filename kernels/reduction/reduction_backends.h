// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/reduction/reduction.h"

namespace polymoe::detail {

/// partials [ceil(elements / elements_per_block)] f64
void sum(CpuBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
         Tensor result, Stream& stream);

void sum_of_squares(CpuBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
                    Tensor result, Stream& stream);

void add(CpuBackend, const Tensor& x, Tensor y, Stream& stream);

void fill(CpuBackend, double value, Tensor y, Stream& stream);

/// partials [blocks]: block b sums elements [b, b + 1) elements_per_block.
void sum(CudaBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
         Tensor result, Stream& stream);
void sum_of_squares(CudaBackend, const Tensor& x, std::int64_t elements_per_block, Tensor partials,
                    Tensor result, Stream& stream);

void add(CudaBackend, const Tensor& x, Tensor y, Stream& stream);
void fill(CudaBackend, double value, Tensor y, Stream& stream);

}  // namespace polymoe::detail
