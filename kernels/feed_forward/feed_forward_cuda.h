// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/feed_forward/feed_forward_cpu.h"

namespace polymoe::detail {

void feed_forward_forward(CudaBackend, const Activation& activation,
                          const FeedForwardWeights& weights, const Tensor& x,
                          const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                          Tensor y, const FeedForwardScratch& scratch, Stream& stream);

void feed_forward_pre_activations(CudaBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream& stream);

void feed_forward_backward(CudaBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream& stream);

}  // namespace polymoe::detail
