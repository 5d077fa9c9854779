// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/feed_forward/feed_forward.h"

namespace polymoe::detail {

/// Scratch of one call, allocated before dispatch so that the memory plan counts it.
struct FeedForwardScratch {
  Tensor activated;     // forward: a tile per thread; backward: all rows, weighted
  Tensor partial_sums;  // f64, backward: the coefficients' gradients per block of rows
};

/// Leading dimension in which activated rows are kept.
std::int64_t activated_stride(std::int64_t ffn);
/// Rows of the forward pass's scratch: those of one tile per thread.
std::int64_t activated_tile_rows(std::int64_t rows);

void feed_forward_forward(CpuBackend, const Activation& activation,
                          const FeedForwardWeights& weights, const Tensor& x,
                          const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                          Tensor y, const FeedForwardScratch& scratch, Stream& stream,
                          const LateRows* late);

void feed_forward_pre_activations(CpuBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream& stream);

void feed_forward_backward(CpuBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream& stream, const LateRows* late);

void feed_forward_forward(CudaBackend, const Activation& activation,
                          const FeedForwardWeights& weights, const Tensor& x,
                          const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                          Tensor y, const FeedForwardScratch& scratch, Stream& stream,
                          const LateRows* late);

void feed_forward_pre_activations(CudaBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream& stream);

void feed_forward_backward(CudaBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream& stream, const LateRows* late);

}  // namespace polymoe::detail
