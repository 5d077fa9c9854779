// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/embedding/embedding.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

/// Scratch of embedding_backward on CUDA, where rows are sorted by token and then summed in
/// windows.
struct EmbeddingScratch {
  static constexpr std::int64_t tile_rows = 2048;    // that a block sorts
  static constexpr std::int64_t window_rows = 64;    // that a block sums
  static constexpr std::int64_t digit_values = 256;  // of one pass of the sort

  Tensor ids[2];        // [rows] i32, in turns: a pass reads one and writes the other
  Tensor positions[2];  // [rows] i32: where an id stood at first
  Tensor digit_counts;  // [tiles, digit_values] i32
  Tensor window_sums;   // [windows, 2, width] f32: of the token that enters and the one that leaves
};

void embedding_forward(CpuBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream);

/// Needs no scratch.
void embedding_backward(CpuBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch& scratch, Stream& stream);

void embedding_forward(CudaBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream);

void embedding_backward(CudaBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch& scratch, Stream& stream);

}  // namespace polymoe::detail
