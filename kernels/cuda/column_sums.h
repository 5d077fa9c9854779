// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// sums[i] += sum over the blocks b of partials[b][i], in a fixed order: second stage of a gradient
/// that is summed per block of rows first.
///
/// partials [blocks, width] f32; sums [width] f32 or bf16, which is rounded once. Asynchronous on
/// `stream`.
void add_column_sums(const float* partials, int blocks, int width, const Tensor& sums,
                     Stream& stream);

}  // namespace polymoe::cuda
